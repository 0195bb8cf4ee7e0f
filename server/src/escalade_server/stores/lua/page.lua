-- Read entries of the feed. order: now, epoch, after, limit. Answer in notes: oldest, newest, delivered
local newest = call('HGET', meta, 'number') or '0'
local first = call('XRANGE', root .. 'feed', '-', '+', 'COUNT', 1)[1]
local oldest = tonumber(newest)
if first then
  oldest = cmsgpack.unpack(first[2][2])[1] - 1
end
if order[4] > 0 then
  news_after(order[3], order[4])
end
notes = { int(oldest), newest, call('HGET', meta, 'delivered') or '0' }
return reply('ok')
