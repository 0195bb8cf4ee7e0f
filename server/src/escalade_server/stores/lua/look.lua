-- Say that the owner lives, do what time brings, and tell what others changed since a version.
-- order: now, epoch, owner, lease_ms, version, {name, ...}, entry, {duty, ...}, duty_ms, tokens
-- Answer: position 1 if more is to do; shared: {owners, {duty held, ...}, tokens, {token, ...}}
local is_more = sweep(SWEEP_MAX)

-- A dead owner's lease is booked in full, until its journal tells what it used (fold.lua).
local function assume_lease(id)
  local key = root .. 'l:' .. id
  local kept = call('HMGET', key, 'windows', 'held')
  if kept[1] then
    local held = cmsgpack.unpack(kept[2])
    for _, window in ipairs(cmsgpack.unpack(kept[1])) do
      local amount = held[window[3]]
      add(window[1], window[2], int(amount), int(0 - amount))
    end
    call('HSET', key, 'held', cmsgpack.pack({ 0, 0, 0 }), 'assumed', kept[2])
  end
end

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
  for _, id in ipairs(call('SMEMBERS', root .. 'leases:' .. dead)) do
    assume_lease(id)
  end
  call('DEL', root .. 'leases:' .. dead)
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
-- One owner has each duty, as long as it says so; from one that leaves or is dead it is taken.
local held = {}
for _, duty in ipairs(order[8]) do
  local kept = call('HGET', root .. 'duties', duty)
  local holder, lasts
  if kept then
    holder, lasts = unpack(cmsgpack.unpack(kept))
  end
  local is_mine = holder == order[3]
  if order[4] == 0 then
    if is_mine then
      call('HDEL', root .. 'duties', duty)
    end
  elseif is_mine or not kept or lasts <= now
    or tonumber(call('ZSCORE', owners, holder) or 0) <= now then
    call('HSET', root .. 'duties', duty, cmsgpack.pack({ order[3], now + order[9] }))
    held[#held + 1] = duty
  end
end
local tokens = call('HGET', meta, 'tokens') or '0'
local told = {}
if tokens ~= order[10] then
  for _, token in ipairs(call('HVALS', root .. 'tokens')) do
    told[#told + 1] = cmsgpack.unpack(token)
  end
end
shared = { call('ZCOUNT', owners, '(' .. int(now), '+inf'), held, tokens, told }
if news_after(order[7], NEWS_MAX) then
  is_more = true
end
return reply('ok', is_more and 1 or 0)
