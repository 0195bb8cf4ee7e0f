-- Write entries of the feed, those that are to be told once only if they are the first.
-- order: now, epoch, {{at, kind, agent, request, trace, text, {{once, until}, ...}}, ...}, delivered
-- The first of the keys decides; the others are claimed with it.
local feed = root .. 'feed'
for _, entry in ipairs(order[3]) do
  local is_first = true
  for place, once in ipairs(entry[7]) do
    local lasts = math.max(once[2] - now, 1)
    local taken = not call('SET', root .. 't:' .. once[1], '1', 'NX', 'PX', int(lasts))
    if place == 1 and taken then
      is_first = false
      break
    end
  end
  if is_first then
    local number = call('HINCRBY', meta, 'number', 1)
    local kept = { number, entry[1], entry[2], entry[3], entry[4], entry[5], entry[6] }
    call('XADD', feed, 'MAXLEN', '~', 100000, number .. '-1', 'e', cmsgpack.pack(kept))
  end
end
if order[4] > tonumber(call('HGET', meta, 'delivered') or 0) then
  call('HSET', meta, 'delivered', int(order[4]))
end
-- A week is kept, and always the last entry.
local number = call('HGET', meta, 'number') or '0'
for _, entry in ipairs(call('XRANGE', feed, '-', '+', 'COUNT', 2 * SWEEP_MAX)) do
  if entry[1] == number .. '-1' or cmsgpack.unpack(entry[2][2])[2] > now - 7 * DAY_MS then
    break
  end
  call('XDEL', feed, entry[1])
end
return reply('ok')
