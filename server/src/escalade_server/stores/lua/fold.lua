-- Bring a lease up to date: book what was used, hold what is kept, and more if there is room; in the
-- windows in which it was taken. See stores/leasing.py, and core/leases.py for the arithmetic.
-- order: now, epoch, owner, id, seq, counters, used, keep, want, most, granted or nil, is_lost, sums
-- counter: {name, unit, period, width, start, ends, label, column, limit}
-- sums: {{day, {{field, amount}, ...}}, ...}; amounts are {requests, tokens, nanos}
-- Answer: position 1 if there was room; notes: what was granted, for how long its windows admit,
-- how many servers live, and of each counter: name, column, time to its end.
local owner, id, seq, counters = order[3], order[4], order[5], order[6]
local used, keep, want, most = order[7], order[8], order[9], order[10]
sweep(SWEEP_MAX)

local LEFT_MS = 40 * DAY_MS -- so long the journal of a dead owner may tell what it used
local key = root .. 'l:' .. id
local kept = call('HMGET', key, 'seq', 'windows', 'held', 'granted', 'assumed', 'owner')
local replicas = math.max(call('ZCOUNT', owners, '(' .. int(now), '+inf'), 1)
local windows, granted = {}, nil

local function answer()
  local admits = 2592000000
  for place = 1, 3 do
    notes[place] = int(granted and granted[place] or 0)
  end
  notes[4], notes[5] = '0', int(replicas)
  for _, window in ipairs(windows) do
    admits = math.min(admits, window[4] - now)
    notes[#notes + 1], notes[#notes + 2] = window[1], int(window[3])
    notes[#notes + 1] = int(window[5] - now)
  end
  notes[4] = int(math.max(admits, 0))
  return reply('ok', granted and 1 or 0)
end

if kept[1] then
  windows = cmsgpack.unpack(kept[2])
  if seq <= tonumber(kept[1]) then
    granted = cmsgpack.unpack(kept[4])[1]
    return answer()
  end
elseif seq ~= 1 and not order[11] then
  return answer()
else
  local rows = {}
  for place, counter in ipairs(counters) do
    local row, trouble = row_of(counter)
    if trouble then
      return reply(trouble)
    end
    rows[place] = row
  end
  for place, counter in ipairs(counters) do
    local row = rows[place]
    if row.is_new then
      begin(row, counter)
    end
    local start, ends = row.last[1], tonumber(row.last[2])
    local admits = row.width > 0 and start + row.width or ends
    windows[place] = { row.name, start, counter[8], admits, ends }
  end
end

local held = kept[3] and cmsgpack.unpack(kept[3]) or { 0, 0, 0 }
local assumed = kept[5] and cmsgpack.unpack(kept[5]) or { 0, 0, 0 }
for place = 1, 3 do
  if order[12] then -- it is not known that the rest is free
    used[place] = math.max(used[place], held[place] + assumed[place])
  end
end
for _, window in ipairs(windows) do
  local column = window[3]
  add(window[1], window[2], int(used[column] - assumed[column]), int(keep[column] - held[column]))
end
for _, day in ipairs(order[13]) do
  note_day(day[1])
  for _, each in ipairs(day[2]) do
    count(day[1], each[1], each[2])
  end
end

local function grant()
  if most[1] == 0 and most[2] == 0 and most[3] == 0 then
    return { 0, 0, 0 }
  end
  local limits, given = {}, { want[1], want[2], want[3] }
  for _, counter in ipairs(counters) do
    limits[counter[1]] = counter[9]
  end
  for _, window in ipairs(windows) do
    local name, column, limit = window[1], window[3], limits[window[1]]
    if not limit or limit == 0 or window[4] <= now then
      return nil
    end
    local free = limit
    local counted = root .. 'c:' .. name
    for _, part in ipairs(parts_of(counted, call('HGET', counted, 'live'))) do
      free = free - part[4] - part[5]
    end
    if free < 0 or free < 2 * replicas * most[column] then
      return nil
    end
    if given[column] > 0 then
      local share = math.max(math.floor(free / (4 * replicas)), most[column])
      given[column] = math.min(given[column], share)
    end
  end
  return given
end

granted = order[11] or grant()
local holds, is_held = {}, false
for place = 1, 3 do
  holds[place] = keep[place] + (granted and granted[place] or 0)
  is_held = is_held or holds[place] > 0
end
if granted then
  for _, window in ipairs(windows) do
    add(window[1], window[2], '0', int(granted[window[3]]))
  end
end
call('HSET', key, 'seq', int(seq), 'windows', cmsgpack.pack(windows), 'held', cmsgpack.pack(holds),
  'granted', cmsgpack.pack({ granted }), 'assumed', cmsgpack.pack({ 0, 0, 0 }), 'owner', owner)
if kept[6] and kept[6] ~= owner then
  call('SREM', root .. 'leases:' .. kept[6], id)
end
if is_held then
  call('SADD', root .. 'leases:' .. owner, id)
  call('PEXPIRE', key, LEFT_MS)
else
  call('SREM', root .. 'leases:' .. owner, id)
  call('PEXPIRE', key, KEPT_MS)
end
call('ZADD', owners, 'NX', now, owner) -- after a pause so long that others took it for dead
is_written = true
return answer()
