-- Keep the trace of a task, or tell one. order: now, epoch, key, name
-- and to keep it: trace, {name, ...}, ttl_ms, most
local key, name, trace = order[3], order[4], order[5]
local all = root .. 'traces'
if not trace then
  if name ~= '' then
    key = call('GET', root .. 'tn:' .. name)
  end
  notes[1] = key and call('GET', root .. 'tr:' .. key) or nil
  return reply('ok')
end
local ttl_ms, most = order[7], order[8]
call('SET', root .. 'tr:' .. key, trace, 'PX', ttl_ms)
for _, each in ipairs(order[6]) do
  call('SET', root .. 'tn:' .. each, key, 'PX', ttl_ms)
end
call('ZADD', all, now, key)
call('ZREMRANGEBYSCORE', all, '-inf', now - ttl_ms)
call('PEXPIRE', all, ttl_ms)
local over = math.min(call('ZCARD', all) - most, SWEEP_MAX)
if over > 0 then
  local oldest = call('ZPOPMIN', all, over)
  for place = 1, #oldest, 2 do
    call('DEL', root .. 'tr:' .. oldest[place])
  end
end
return reply('ok')
