-- Look a reservation up. order: now, epoch, id
sweep(SWEEP_MAX)
local known = find(order[3])
if known.state then
  local agent = call('HGET', known.key, 'agent')
  local used = known.used or { 0, 0, 0 }
  notes = {
    known.model, agent, known.routed, known.state, known.digest, known.admitted,
    int(known.reserved[2]), int(known.reserved[3]), int(used[2]), int(used[3]),
  }
end
return reply('ok')
