-- Say that the owner lives, do what time brings, and tell what others changed since a version.
-- order: now, epoch, owner, lease_ms, version, {name, ...}, entry.
-- Answer: position 1 if more is to do.
local is_more = sweep(SWEEP_MAX)
call('ZADD', owners, now + order[4], order[3])
-- What a dead owner left open is booked in full: nobody will tell what it used.
local left = SWEEP_MAX
for _, dead in ipairs(call('ZRANGEBYSCORE', owners, '-inf', now)) do
  local open = call('SRANDMEMBER', root .. 'open:' .. dead, left)
  for _, id in ipairs(open) do
    local known = find(id)
    if known.state == OPEN then
      book(known, known.reserved, ASSUMED, known.digest)
    else
      call('SREM', root .. 'open:' .. dead, id)
    end
  end
  left = left - #open
  if left == 0 then
    is_more = true
    break
  end
  call('ZREM', owners, dead)
end
if version ~= order[5] or is_written or #changed > 0 then
  changed = {}
  for _, name in ipairs(order[6]) do
    local key = root .. 'c:' .. name
    seen[#seen + 1] = { name, parts_of(key, call('HGET', key, 'live')) }
  end
  for _, kept in ipairs(call('HVALS', benches)) do
    local bench = cmsgpack.unpack(kept)
    if tonumber(bench[2]) > now then
      set_aside[#set_aside + 1] = bench
    else
      call('HDEL', benches, bench[1])
    end
  end
  notes[1] = 'all'
end
if news_after(order[7], NEWS_MAX) then
  is_more = true
end
return reply('ok', is_more and 1 or 0)
