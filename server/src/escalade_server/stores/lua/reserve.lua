-- Hold the first candidate with room in all its counters; else only say what stands in them.
-- order: now, epoch, owner, id, agent, routed, claim, content, counters, candidates, force, day, runs
-- counter: {name, unit, period, width, start, ends, label}; width 0 is a calendar window
-- candidate: {position, model, {requests, tokens, nanos}, {{counter, column, limit}, ...}, use,
-- metered}
local owner, id, claim, content = order[3], order[4], order[7], order[8]
local counters, candidates, is_forced = order[9], order[10], order[11]
sweep(SWEEP_MAX)

local key = root .. 'r:' .. id
local before = call('HMGET', key, 'position', 'denied')
if before[1] then
  seen = before[2] and cmsgpack.unpack(before[2]) or {}
  return reply('same', tonumber(before[1]))
end

local claimed = root .. 'q:' .. claim
if claim ~= '' and not is_forced then
  local row = call('HMGET', claimed, 'content', 'last', 'model', 'figures', 'answered', 'runner')
  if row[1] and now - row[2] >= DAY_MS then
    call('DEL', claimed)
  elseif row[1] and row[1] ~= content then
    return reply('repeated')
  elseif row[4] and now - row[5] < DAY_MS then
    notes = { row[3], row[4], row[5] }
    return reply('repeated')
  elseif row[6] and row[6] ~= owner and tonumber(call('ZSCORE', owners, row[6]) or 0) > now then
    return reply('busy') -- another process runs it: there its engine would have said so
  end
end

local rows, trouble = {}, nil
local function current(index)
  if not rows[index] then
    rows[index], trouble = row_of(counters[index])
  end
  return rows[index]
end

local taken
for _, candidate in ipairs(candidates) do
  local fits = true
  for _, touched in ipairs(candidate[4]) do
    local row, limit = current(touched[1]), touched[3]
    if trouble then
      return reply(trouble)
    end
    if limit == 0 or row.sum + candidate[3][touched[2]] > limit then
      fits = false
    end
  end
  if fits or is_forced then
    taken = candidate
    break
  end
end
if not taken then
  return reply('denied')
end

local windows = {}
for _, touched in ipairs(taken[4]) do
  local row, column = rows[touched[1]], touched[2]
  if row.is_new then
    begin(row, counters[touched[1]])
  end
  local start = row.last[1]
  local held = call('HINCRBY', row.key, start .. ':h', int(taken[3][column]))
  changed[#changed + 1] = { row.name, start, row.last[4], held }
  windows[#windows + 1] = { row.name, start, column }
end
call('HSET', key, 'state', OPEN, 'owner', owner, 'model', taken[2], 'position', taken[1],
  'reserved', cmsgpack.pack(taken[3]), 'windows', cmsgpack.pack(windows), 'admitted', int(now),
  'agent', order[5], 'routed', order[6], 'claim', claim,
  'day', order[12], 'use', taken[5], 'metered', taken[6])
if taken ~= candidates[1] then
  call('HSET', key, 'denied', cmsgpack.pack(seen))
end
call('SADD', root .. 'open:' .. owner, id)
call('ZADD', owners, 'NX', now, owner) -- after a pause so long that others took it for dead
if claim ~= '' then
  call('HSET', claimed, 'content', content, 'last', int(now))
  if order[13] then -- until its owner says that it ended, or is dead
    call('HSET', claimed, 'runner', owner)
  end
  call('PEXPIRE', claimed, KEPT_MS)
end
is_written = true
return reply('held', taken[1])
