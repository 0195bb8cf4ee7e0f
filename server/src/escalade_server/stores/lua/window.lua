-- Make the window that begins now. Calendar windows are kept, slices dropped with their end.
local function begin(row, counter)
  local start = row.last[1]
  if not row.is_known then
    call('HSET', row.key, 'unit', counter[2], 'period', counter[3])
    call('SADD', root .. 'counters', counter[1])
  end
  call('HSETNX', row.key, start .. ':s', '0')
  call('HSETNX', row.key, start .. ':h', '0')
  call('HSET', row.key, start .. ':e', row.last[2], start .. ':l', row.last[3])
  local live, is_live = {}, {}
  for _, part in ipairs(row.parts) do
    live[#live + 1], is_live[part[1]] = part[1], true
  end
  local old = {}
  for gone in string.gmatch(row.live, '%d+') do
    if not is_live[gone] then
      old[#old + 1] = gone
    end
  end
  if row.width == 0 then
    local ended = {}
    for each in string.gmatch(call('HGET', row.key, 'ended') or '', '%d+') do
      ended[#ended + 1] = each
    end
    for _, each in ipairs(old) do
      ended[#ended + 1] = each
    end
    old = {}
    while #ended > WINDOWS_KEPT do
      old[#old + 1] = table.remove(ended, 1)
    end
    call('HSET', row.key, 'ended', table.concat(ended, ' '))
  end
  for _, each in ipairs(old) do
    call('HDEL', row.key, each .. ':e', each .. ':l', each .. ':s', each .. ':h')
  end
  call('HSET', row.key, 'live', table.concat(live, ' '))
  row.is_new = false
end

-- Find the row of a counter that new calls go to; the second answer is why there is none.
local function row_of(counter)
  local trouble
  local name, width = counter[1], counter[4]
  local row = { key = root .. 'c:' .. name, name = name, width = width }
  local kept = call('HMGET', row.key, 'unit', 'period', 'live')
  if kept[1] and (kept[1] ~= counter[2] or kept[2] ~= counter[3]) then
    trouble, notes = 'key', { name, kept[1], kept[2] }
  end
  row.live, row.is_known = kept[3] or '', kept[1]
  row.parts = parts_of(row.key, row.live)
  local last = row.parts[#row.parts]
  -- A window lasts until its end, whatever a clock or a changed zone says.
  if not last or (width > 0 and now >= last[1] + width) then
    local start, ends = counter[5], counter[6]
    if width > 0 then
      start = now - now % width
      ends = start + 11 * width
    elseif now < start or now >= ends then
      trouble = 'window' -- the caller asked for that of another day: it asks again
    end
    row.is_new = true
    last = { int(start), int(ends), counter[7], '0', '0' }
    row.parts[#row.parts + 1] = last
  end
  row.last, row.sum = last, 0
  for _, part in ipairs(row.parts) do
    row.sum = row.sum + part[4] + part[5]
  end
  seen[#seen + 1] = { name, row.parts }
  return row, trouble
end
