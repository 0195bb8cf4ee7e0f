-- List the days with any use in notes; or the sums of one, field by field. order: now, epoch, day
if order[3] ~= '' then
  notes = call('HGETALL', root .. 'u:' .. order[3])
else
  notes = call('HKEYS', days)
end
return reply('ok')
