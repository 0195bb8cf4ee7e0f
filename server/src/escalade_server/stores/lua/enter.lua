-- Enter what people say was spent of a counter in its window, with who and why, for the audit.
-- order: now, epoch, name, counter or nil, value, is_change, who, reason
-- counter: {name, unit, period, width, start, ends, label}. Answer in notes: at, label, old, new
local name, counter = order[3], order[4]
local key = root .. 'c:' .. name
local kept = call('HMGET', key, 'unit', 'period', 'live')
if not kept[1] and not counter then
  return reply('unknown')
elseif kept[1] and counter and (kept[1] ~= counter[2] or kept[2] ~= counter[3]) then
  notes = { name, kept[1], kept[2] }
  return reply('key')
end
notes = { kept[2] or counter[3] }
if notes[1] == 'second' or notes[1] == 'minute' or notes[1] == 'hour' then
  return reply('slides')
end
local parts = parts_of(key, kept[3])
local last = parts[#parts]
if not last and not counter then
  return reply('unused')
elseif not last and (now < counter[5] or now >= counter[6]) then
  return reply('window')
end
local old = last and tonumber(last[4]) or 0
local new = order[6] and old + order[5] or order[5]
notes = { int(now), last and last[3] or counter[7], int(old), int(new) }
if new < 0 or new > 9007199254740992 then
  return reply('range')
end
if not last then
  last = { int(counter[5]), int(counter[6]), counter[7] }
  local row = { key = key, live = kept[3] or '', parts = { last }, last = last, width = 0 }
  row.is_known = kept[1]
  begin(row, counter)
end
call('HINCRBY', key, last[1] .. ':s', int(new - old))
call('XADD', root .. 'audit', '*', 'e', cmsgpack.pack({
  notes[1], order[7], name, notes[2], notes[3], notes[4], order[8],
}))
is_written = true
return reply('ok')
