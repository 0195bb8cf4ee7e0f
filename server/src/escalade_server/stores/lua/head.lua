-- What every script begins with. KEYS[1] is `{name}:meta`; every other key begins with the same
-- hash tag and is made here. ARGV[1] is one MessagePack array: {now or nil, epoch or nil, ...}.
-- A script first looks, then writes: Redis undoes nothing. Amounts are whole numbers below 2^53,
-- sums are kept by HINCRBY, which counts in 64 bits.
local call = redis.call
local order = cmsgpack.unpack(ARGV[1])
local meta = KEYS[1]
local root = string.sub(meta, 1, -5)
local uncertain, owners, benches = root .. 'uncertain', root .. 'owners', root .. 'benches'
local days = root .. 'days'

local OPEN, UNCERTAIN, ASSUMED, SETTLED = '0', '1', '2', '3'
local SWEEP_MAX, NEWS_MAX = 20, 200
local SHORT_MS, KEPT_MS, DAY_MS = 3600000, 90000000, 86400000
local WINDOWS_KEPT, USE_KEPT_MS = 400, 401 * 86400000

local now = order[1]
if not now then -- the store's own clock decides, whatever those of its clients say
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local state = call('HMGET', meta, 'epoch', 'version', 'purged')
local version = tonumber(state[2] or 0)
local seen, changed, notes, set_aside, news = {}, {}, {}, {}, {}
local shared -- what only look tells
local is_written = false

local function int(number)
  return string.format('%.0f', number)
end

-- Answer: {kind, version, now, position, seen, changed, notes, benches, news, shared}.
local function reply(kind, position)
  if is_written or #changed > 0 then
    version = call('HINCRBY', meta, 'version', 1)
  end
  return cmsgpack.pack({
    kind, version, now, position or -1, seen, changed, notes, set_aside, news, shared,
  })
end

if order[2] and state[1] ~= order[2] then
  return reply('epoch')
end

-- The parts of a counter that still count, oldest first: {start, ends, label, spent, held}.
local function parts_of(key, live)
  local found = {}
  for start in string.gmatch(live or '', '%d+') do
    local row = call('HMGET', key, start .. ':e', start .. ':l', start .. ':s', start .. ':h')
    if row[1] and tonumber(row[1]) > now then
      found[#found + 1] = { start, row[1], row[2], row[3], row[4] }
    end
  end
  return found
end

-- Change one window; one that was dropped is past caring.
local function add(name, start, spent, held)
  local key = root .. 'c:' .. name
  if call('HEXISTS', key, start .. ':e') == 1 then
    local now_spent = call('HINCRBY', key, start .. ':s', spent)
    local now_held = call('HINCRBY', key, start .. ':h', held)
    changed[#changed + 1] = { name, start, now_spent, now_held }
  end
end

local function find(id)
  local row = call('HMGET', root .. 'r:' .. id, 'state', 'owner', 'reserved', 'windows', 'used',
    'digest', 'claim', 'model', 'admitted', 'routed', 'day', 'use', 'metered')
  return {
    key = root .. 'r:' .. id, id = id, state = row[1], owner = row[2],
    reserved = row[3] and cmsgpack.unpack(row[3]), windows = row[4],
    used = row[5] and cmsgpack.unpack(row[5]), digest = row[6] or '', claim = row[7] or '',
    model = row[8], admitted = row[9], routed = row[10],
    day = row[11], use = row[12], metered = row[13] == '1',
  }
end

-- Add to the sums of a day.
local function count(day, field, amount)
  if amount ~= 0 then
    call('HINCRBY', root .. 'u:' .. day, field, int(amount))
  end
end

local function note_day(day)
  call('HSETNX', days, day, int(now))
end

-- Once a day: the use of days that are too old goes, with their reports.
local function purge()
  local today = int(math.floor(now / DAY_MS))
  if state[3] == today then
    return
  end
  call('HSET', meta, 'purged', today)
  local known = call('HGETALL', days)
  for place = 1, #known, 2 do
    if now - known[place + 1] > USE_KEPT_MS then
      call('DEL', root .. 'u:' .. known[place])
      call('HDEL', root .. 'reports', known[place])
      call('HDEL', days, known[place])
    end
  end
end

-- What is booked in full for want of news, in the order of the fields of a day's use.
local function assumed(used, is_metered)
  return { used[1], 0, 0, 0, 0, 0, used[2], used[3], is_metered and used[3] or 0, used[3] }
end

-- Book a reservation in its windows of admission: what it used, or the difference to what was
-- assumed. It is kept for a day if anybody may come back to it, for an hour otherwise.
local function book(known, used, becomes, digest, told)
  for _, window in ipairs(cmsgpack.unpack(known.windows)) do
    local name, start, column = window[1], window[2], window[3]
    if known.state == ASSUMED then
      add(name, start, int(used[column] - known.used[column]), '0')
    else
      add(name, start, int(used[column]), int(0 - known.reserved[column]))
    end
  end
  note_day(known.day)
  local added = told or assumed(used, known.metered)
  local before = known.state == ASSUMED and assumed(known.used, known.metered)
  for place, amount in ipairs(added) do
    count(known.day, 'u' .. place .. known.use, amount - (before and before[place] or 0))
  end
  call('HSET', known.key, 'state', becomes, 'used', cmsgpack.pack(used), 'digest', digest)
  call('HDEL', known.key, 'denied')
  if known.state == OPEN then
    call('SREM', root .. 'open:' .. known.owner, known.id)
  elseif known.state == UNCERTAIN then
    call('ZREM', uncertain, known.id)
  end
  local is_short = becomes == SETTLED and known.claim == '' and known.routed == '0'
  call('PEXPIRE', known.key, is_short and SHORT_MS or KEPT_MS)
  is_written = true
end

-- Do what time alone brings: what was in doubt until now is booked in full.
local function sweep(most)
  local due = call('ZRANGEBYSCORE', uncertain, '-inf', now, 'LIMIT', 0, most)
  for _, id in ipairs(due) do
    local known = find(id)
    if known.state == UNCERTAIN then
      book(known, known.reserved, ASSUMED, known.digest)
    else
      call('ZREM', uncertain, id)
    end
  end
  purge()
  return #due == most
end

-- Entries of the feed after a number: {number, at, kind, agent, request, trace, text}.
local function news_after(number, most)
  local found = call('XRANGE', root .. 'feed', '(' .. int(number) .. '-1', '+', 'COUNT', most)
  for _, entry in ipairs(found) do
    news[#news + 1] = cmsgpack.unpack(entry[2][2])
  end
  return #found == most
end
