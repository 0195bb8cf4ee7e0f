-- Keep tokens, or end them; all of them are answered in shared, as look does.
-- order: now, epoch, what, token or key_id or nil, live_max, at, {old, its end} or nil
-- token: {key_id, agent, rank, digest, created, expires, revoked}; -1 is never
local tokens = root .. 'tokens'
local what, token, at, old = order[3], order[4], order[6], order[7]
local rows, live = {}, 0
for _, kept in ipairs(call('HVALS', tokens)) do
  local row = cmsgpack.unpack(kept)
  rows[row[1]] = row
  if what == 'add' and row[2] == token[2] and row[7] < 0 and (row[6] < 0 or row[6] > at) then
    live = live + 1
  end
end
local function keep(row)
  rows[row[1]] = row
  call('HSET', tokens, row[1], cmsgpack.pack(row))
end
if what == 'add' then
  if live >= order[5] then
    return reply('full')
  end
  if old and rows[old[1]] then
    rows[old[1]][6] = old[2]
    keep(rows[old[1]])
  end
  keep(token)
elseif what == 'revoke' then
  local row = rows[order[4]]
  if not row then
    return reply('unknown')
  end
  if row[7] < 0 then
    row[7] = at
    keep(row)
  end
end
if what ~= 'all' then
  call('HINCRBY', meta, 'tokens', 1)
end
local told = {}
for _, row in pairs(rows) do
  told[#told + 1] = row
end
shared = { 0, {}, call('HGET', meta, 'tokens') or '0', told }
return reply('ok')
