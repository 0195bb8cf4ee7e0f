-- Set something aside for everyone; the later end wins, 0 clears. order: now, epoch, {key, until, ...}
-- An end may lie beyond 2^53 (never): it stays text, and is only compared.
sweep(SWEEP_MAX)
local bench = order[3]
local kept = call('HGET', benches, bench[1])
if tonumber(bench[2]) == 0 then
  call('HDEL', benches, bench[1])
  set_aside[1] = bench
  is_written = true
elseif not kept or tonumber(cmsgpack.unpack(kept)[2]) < tonumber(bench[2]) then
  call('HSET', benches, bench[1], cmsgpack.pack(bench))
  set_aside[1] = bench
  is_written = true
end
return reply('ok')
