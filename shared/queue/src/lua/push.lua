-- Stores jobs and makes them available, or schedules them, in one step.
-- KEYS[1]  prefix
-- ARGV[1]  most jobs that may wait (available, scheduled, retryable), 0 for no bound
-- ARGV[2]  number of buckets; each: prio, kind, group, n, then n times (id, record): plain jobs that run now
-- then     any number of (id, record, due, unique mode, unique key, unique ttl ms): jobs that need looking at.
--          due: '' now, '+ms' from now, 'ms' since the epoch; mode: '' none, 'd' until done, 'w' for a window
-- returns  {} or flat (index of the single job from 0, id of the job that is there already); {'full', depth} when full
local limit = tonumber(ARGV[1])
local i = 3
if limit > 0 then
  local depth = call('HLEN', JOBS) - call('ZCARD', LEASE) - call('ZCARD', DONE) - call('ZCARD', DEAD) - call('ZCARD', CANCELLED)
  if depth >= limit then return { 'full', depth } end
end
for _ = 1, tonumber(ARGV[2]) do
  local prio, kind, group, n = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  local a = i + 4
  local ids = {}
  for k = 1, n do ids[k] = ARGV[a + 2 * k - 2] end
  call('HSET', JOBS, unpack(ARGV, a, a + 2 * n - 1))
  ready(ids, prio, kind, group, false)
  i = a + 2 * n
end
local there = {}
local index, now = 0, 0
while i <= #ARGV do
  local id, rec, due, mode, key, ttl = unpack(ARGV, i, i + 5)
  if now == 0 then now = clock() end
  local twin = false
  if mode ~= '' then
    local u = P .. 'u:' .. key
    twin = call('GET', u)
    -- The holder may have been deleted by hand; its key must not block the name for ever.
    if twin and mode == 'd' and call('HEXISTS', JOBS, twin) == 0 then twin = false end
    if not twin then
      if mode == 'w' then call('SET', u, id, 'PX', ttl) else call('SET', u, id) end
    end
  end
  -- The same id twice is a push that was sent again because its answer was lost.
  if not twin and call('HEXISTS', JOBS, id) == 1 then twin = id end
  if twin then
    there[#there + 1] = index
    there[#there + 1] = twin
  else
    call('HSET', JOBS, id, rec)
    local h = head(rec)
    local at = 0
    if due ~= '' then
      if byte(due, 1) == 43 then at = now + tonumber(sub(due, 2)) else at = tonumber(due) end
    end
    if at > now then
      call('ZADD', SCHED, at, id)
      -- A new earliest due time: somebody's timer has to be set to it.
      if call('ZRANGE', SCHED, 0, 0)[1] == id then wake(h.kind) end
    else
      ready({ id }, h.prio, h.kind, h.group, false)
    end
  end
  index = index + 1
  i = i + 6
end
return there
