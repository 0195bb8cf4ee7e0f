-- Hold the first candidate with room in all its counters; else only say what stands in them.
-- order: now, epoch, owner, id, agent, routed, claim, content, counters, candidates, force, day
-- counter: {name, unit, period, width, start, ends, label}; width 0 is a calendar window
-- candidate: {position, model, {requests, tokens, nanos}, {{counter, column, limit}, ...}, use,
-- metered}
local owner, id, claim, content = order[3], order[4], order[7], order[8]
local counters, candidates, is_forced = order[9], order[10], order[11]
sweep(SWEEP_MAX)

local key = root .. 'r:' .. id
local before = call('HMGET', key, 'position', 'denied')
if before[1] then
  seen = before[2] and cmsgpack.unpack(before[2]) or {}
  return reply('same', tonumber(before[1]))
end

local claimed = root .. 'q:' .. claim
if claim ~= '' and not is_forced then
  local row = call('HMGET', claimed, 'content', 'last', 'model', 'figures', 'answered', 'owner', 'id')
  if row[1] and now - row[2] >= DAY_MS then
    call('DEL', claimed)
  elseif row[1] and row[1] ~= content then
    return reply('repeated')
  elseif row[4] and now - row[5] < DAY_MS then
    notes = { row[3], row[4], row[5] }
    return reply('repeated')
  elseif row[6] and row[6] ~= owner and call('HGET', root .. 'r:' .. row[7], 'state') == OPEN
    and tonumber(call('ZSCORE', owners, row[6]) or 0) > now then
    return reply('busy') -- another process runs it: there its engine would have said so
  end
end

local rows, trouble = {}, nil
local function current(index)
  if rows[index] then
    return rows[index]
  end
  local counter = counters[index]
  local name, width = counter[1], counter[4]
  local row = { key = root .. 'c:' .. name, name = name, width = width }
  local kept = call('HMGET', row.key, 'unit', 'period', 'live')
  if kept[1] and (kept[1] ~= counter[2] or kept[2] ~= counter[3]) then
    trouble, notes = 'key', { name, kept[1], kept[2] }
  end
  row.live, row.is_known = kept[3] or '', kept[1]
  row.parts = parts_of(row.key, row.live)
  local last = row.parts[#row.parts]
  -- A window lasts until its end, whatever a clock or a changed zone says.
  if not last or (width > 0 and now >= last[1] + width) then
    local start, ends = counter[5], counter[6]
    if width > 0 then
      start = now - now % width
      ends = start + 11 * width
    elseif now < start or now >= ends then
      trouble = 'window' -- the caller asked for that of another day: it asks again
    end
    row.is_new = true
    last = { int(start), int(ends), counter[7], '0', '0' }
    row.parts[#row.parts + 1] = last
  end
  row.last, row.sum = last, 0
  for _, part in ipairs(row.parts) do
    row.sum = row.sum + part[4] + part[5]
  end
  rows[index] = row
  seen[#seen + 1] = { name, row.parts }
  return row
end

-- Make the window that begins now. Calendar windows are kept, slices dropped with their end.
local function begin(row, counter)
  local start = row.last[1]
  if not row.is_known then
    call('HSET', row.key, 'unit', counter[2], 'period', counter[3])
  end
  call('HSETNX', row.key, start .. ':s', '0')
  call('HSETNX', row.key, start .. ':h', '0')
  call('HSET', row.key, start .. ':e', row.last[2], start .. ':l', row.last[3])
  local live, is_live = {}, {}
  for _, part in ipairs(row.parts) do
    live[#live + 1], is_live[part[1]] = part[1], true
  end
  local old = {}
  for gone in string.gmatch(row.live, '%d+') do
    if not is_live[gone] then
      old[#old + 1] = gone
    end
  end
  if row.width == 0 then
    local ended = {}
    for each in string.gmatch(call('HGET', row.key, 'ended') or '', '%d+') do
      ended[#ended + 1] = each
    end
    for _, each in ipairs(old) do
      ended[#ended + 1] = each
    end
    old = {}
    while #ended > WINDOWS_KEPT do
      old[#old + 1] = table.remove(ended, 1)
    end
    call('HSET', row.key, 'ended', table.concat(ended, ' '))
  end
  for _, each in ipairs(old) do
    call('HDEL', row.key, each .. ':e', each .. ':l', each .. ':s', each .. ':h')
  end
  call('HSET', row.key, 'live', table.concat(live, ' '))
  row.is_new = false
end

local taken
for _, candidate in ipairs(candidates) do
  local fits = true
  for _, touched in ipairs(candidate[4]) do
    local row, limit = current(touched[1]), touched[3]
    if trouble then
      return reply(trouble)
    end
    if limit == 0 or row.sum + candidate[3][touched[2]] > limit then
      fits = false
    end
  end
  if fits or is_forced then
    taken = candidate
    break
  end
end
if not taken then
  return reply('denied')
end

local windows = {}
for _, touched in ipairs(taken[4]) do
  local row, column = rows[touched[1]], touched[2]
  if row.is_new then
    begin(row, counters[touched[1]])
  end
  local start = row.last[1]
  local held = call('HINCRBY', row.key, start .. ':h', int(taken[3][column]))
  changed[#changed + 1] = { row.name, start, row.last[4], held }
  windows[#windows + 1] = { row.name, start, column }
end
call('HSET', key, 'state', OPEN, 'owner', owner, 'model', taken[2], 'position', taken[1],
  'reserved', cmsgpack.pack(taken[3]), 'windows', cmsgpack.pack(windows), 'admitted', int(now),
  'agent', order[5], 'routed', order[6], 'claim', claim,
  'day', order[12], 'use', taken[5], 'metered', taken[6])
if taken ~= candidates[1] then
  call('HSET', key, 'denied', cmsgpack.pack(seen))
end
call('SADD', root .. 'open:' .. owner, id)
call('ZADD', owners, 'NX', now, owner) -- after a pause so long that others took it for dead
if claim ~= '' then
  call('HSET', claimed, 'content', content, 'last', int(now), 'owner', owner, 'id', id)
  call('PEXPIRE', claimed, KEPT_MS)
end
is_written = true
return reply('held', taken[1])
