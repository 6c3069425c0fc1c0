-- Counts a queue's jobs by state, and finds the job that has waited longest.
-- KEYS[1]  prefix
-- returns  {total, scheduled, running, retryable, completed, cancelled, dead, paused, now ms, oldest id or '',
--           stat (flat), due now, workers, kinds looked at}
local now = clock()
local oldest = ''
for _, kind in ipairs(call('SRANDMEMBER', P .. 'kinds', 50)) do
  for _, prio in ipairs({ 'h', 'n', 'l' }) do
    local lane = prio .. ':' .. kind
    -- The first groups of the rotation: enough to tell how long work waits, and bounded.
    for _, group in ipairs(call('LRANGE', P .. 'r:' .. lane, 0, 19)) do
      local id = call('LINDEX', P .. 'q:' .. lane .. ':' .. group, 0)
      if id and (oldest == '' or id < oldest) then oldest = id end
    end
  end
end
return {
  call('HLEN', JOBS), call('ZCARD', SCHED), call('ZCARD', LEASE), call('ZCARD', RETRY), call('ZCARD', DONE),
  call('ZCARD', CANCELLED), call('ZCARD', DEAD), call('HEXISTS', P .. 'cfg', 'paused'), now, oldest,
  call('HGETALL', P .. 'stat'), call('ZCOUNT', SCHED, '-inf', now) + call('ZCOUNT', RETRY, '-inf', now),
  call('ZCARD', P .. 'workers'),
}
