-- Keep the report of a day as it was made, once (position 1); or list the days that have one.
-- order: now, epoch, day, report
local reports = root .. 'reports'
if order[3] ~= '' then
  return reply('ok', call('HSETNX', reports, order[3], order[4]))
end
notes = call('HKEYS', reports)
return reply('ok')
