-- Counts a queue's jobs by state, and finds the oldest of those whose turn is next.
-- KEYS[1]  prefix
-- returns  {total, scheduled, running, retryable, completed, cancelled, dead, paused, now ms, oldest id or '',
--           stat (flat), due now, workers}
local now = clock()
local oldest = ''
-- Places that are looked at where some are ghosts', in all: a cancel of all jobs leaves any number of them.
local has_ghosts, looks = call('EXISTS', P .. 'ghosts') == 1, 1000
local function first_job(list)
  if not has_ghosts then return call('LINDEX', list, 0) end
  local at = 0
  while looks > 0 do
    local ids = call('LRANGE', list, at, at + min(looks, 100) - 1)
    if #ids == 0 then return nil end
    local is_ghost = call('HMGET', P .. 'ghosts', unpack(ids))
    for k = 1, #ids do
      if not is_ghost[k] then return ids[k] end
    end
    looks = looks - #ids
    at = at + #ids
  end
end
for _, kind in ipairs(call('SRANDMEMBER', P .. 'kinds', 50)) do
  for _, prio in ipairs({ 'h', 'n', 'l' }) do
    local lane = prio .. ':' .. kind
    -- The first groups of the rotation: enough to tell whether old work waits, and bounded.
    for _, group in ipairs(call('LRANGE', P .. 'r:' .. lane, 0, 19)) do
      local id = first_job(P .. 'q:' .. lane .. ':' .. group)
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
