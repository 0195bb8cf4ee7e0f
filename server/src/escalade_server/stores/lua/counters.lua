-- List the counters, their windows in seen, in notes: unit and period of each in that order.
-- order: now, epoch
for _, name in ipairs(call('SMEMBERS', root .. 'counters')) do
  local key = root .. 'c:' .. name
  local kept = call('HMGET', key, 'unit', 'period', 'live')
  seen[#seen + 1] = { name, parts_of(key, kept[3]) }
  notes[#notes + 1] = kept[1]
  notes[#notes + 1] = kept[2]
end
return reply('ok')
