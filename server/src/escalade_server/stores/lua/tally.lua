-- Count a task that no settlement counts. order: now, epoch, day, {{field, amount}, ...}
note_day(order[3])
for _, each in ipairs(order[4]) do
  count(order[3], each[1], each[2])
end
return reply('ok')
