-- Become an owner; make the ledger if there is none. Each counter means one unit and period.
-- order: nil, nil, {{name, unit, period}, ...}, lease_ms, secret
-- The secret signs resume tokens for all servers: the first one's is kept.
if not state[1] then
  local time = call('TIME')
  state[1] = time[1] .. '.' .. time[2]
  call('HSET', meta, 'epoch', state[1], 'schema', 1)
  notes[3] = 'new'
end
for _, counter in ipairs(order[3]) do
  call('SADD', root .. 'counters', counter[1])
  local key = root .. 'c:' .. counter[1]
  local kept = call('HMGET', key, 'unit', 'period')
  if not kept[1] then
    call('HSET', key, 'unit', counter[2], 'period', counter[3])
  elseif kept[1] ~= counter[2] or kept[2] ~= counter[3] then
    notes = { counter[1], kept[1], kept[2] }
    return reply('key')
  end
end
notes[1] = state[1]
notes[2] = int(call('HINCRBY', meta, 'owners', 1))
notes[3] = notes[3] or ''
notes[4] = call('HGET', meta, 'schema')
notes[5] = call('HGET', meta, 'number') or '0'
call('HSETNX', meta, 'secret', order[5])
notes[6] = call('HGET', meta, 'secret')
call('ZADD', owners, now + order[4], notes[2])
return reply('ok')
