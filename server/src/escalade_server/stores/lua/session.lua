-- Answer what is kept of a session. order: now, epoch, key
notes[1] = call('HGET', root .. 's:' .. order[3], 'session') or nil
return reply('ok')
