-- Book a reservation; one that is not known, or was reported already, changes nothing.
-- order: now, epoch, id, {requests, tokens, nanos}, assumed, hold_until, digest, figures, told,
-- tally
-- told: what the day's use gets, by field; tally: {{field, amount}, ...}
local used, is_assumed, hold_until = order[4], order[5], order[6]
local digest, figures = order[7], order[8]
sweep(SWEEP_MAX)

local known = find(order[3])
if not known.state or known.digest ~= '' then
  return reply('ok')
end
if figures ~= '' and known.claim ~= '' then -- also of one that was booked before: it stands in
  local claimed = root .. 'q:' .. known.claim
  call('HSET', claimed, 'model', known.model, 'figures', figures, 'answered', known.admitted)
  call('PEXPIRE', claimed, KEPT_MS)
  is_written = true
end
if known.state == SETTLED then
  return reply('ok')
end
if hold_until == 0 then
  book(known, used, is_assumed and ASSUMED or SETTLED, digest, order[9])
  for _, each in ipairs(order[10]) do
    count(known.day, each[1], each[2])
  end
elseif known.state ~= ASSUMED then
  call('HSET', known.key, 'state', UNCERTAIN, 'digest', digest)
  call('SREM', root .. 'open:' .. known.owner, known.id)
  call('ZADD', uncertain, hold_until, known.id)
  is_written = true
end
return reply('ok')
