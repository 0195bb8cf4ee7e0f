-- List what people entered, oldest first. order: now, epoch
-- Answer in notes: at, who, counter, window, old, new and reason of each, one after the other.
for _, entry in ipairs(call('XRANGE', root .. 'audit', '-', '+')) do
  for _, each in ipairs(cmsgpack.unpack(entry[2][2])) do
    notes[#notes + 1] = each
  end
end
return reply('ok')
