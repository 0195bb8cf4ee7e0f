-- Keep a session as it is now; what is newer stays. Of too many, the oldest go.
-- order: now, epoch, key, agent, seen_ms, ttl_ms, session, most of the agent, most of all
local DROPPED_MAX = 20
local key, seen_ms, ttl_ms = order[3], order[5], order[6]
local kept = call('HGET', root .. 's:' .. key, 'seen')
if kept and tonumber(kept) > seen_ms then
  return reply('ok')
end
call('HSET', root .. 's:' .. key, 'seen', int(seen_ms), 'session', order[7])
call('PEXPIRE', root .. 's:' .. key, ttl_ms)

local function put(index, most)
  call('ZADD', index, now + ttl_ms, key)
  call('ZREMRANGEBYSCORE', index, '-inf', now)
  call('PEXPIRE', index, ttl_ms)
  local over = math.min(call('ZCARD', index) - most, DROPPED_MAX)
  if over > 0 then
    local oldest = call('ZPOPMIN', index, over)
    for place = 1, #oldest, 2 do
      call('DEL', root .. 's:' .. oldest[place])
    end
  end
end

put(root .. 'sessions:' .. order[4], order[8])
put(root .. 'sessions', order[9])
return reply('ok')
