-- Say that an owner runs request ids no more. order: now, epoch, owner, {claim, ...}
for _, claim in ipairs(order[4]) do
  local claimed = root .. 'q:' .. claim
  if call('HGET', claimed, 'runner') == order[3] then
    call('HDEL', claimed, 'runner')
  end
end
return reply('ok')
