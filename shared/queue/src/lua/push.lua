-- Stores jobs and makes them available, or schedules them, in one step; or stores none where the queue is full.
-- KEYS[1]  prefix
-- ARGV[1]  most jobs that may wait (available, scheduled, retryable)   [2] most bytes of their records
-- ARGV[3]  longest time in ms that a job may be expected to wait; 0 for no bound in each of the three
-- ARGV[4]  number of jobs   [5] bytes of their records   [6] kind of the first
-- ARGV[7]  number of plain jobs, which run now; then so many times (id, record), lane by lane
-- then     number of their lanes; each: prio, kind, group, n
-- then     any number of (id, record, due, unique mode, unique key, unique ttl ms): jobs that need looking at.
--          due: '' now, '+ms' from now, 'ms' since the epoch; mode: '' none, 'd' until done, 'w' for a window
-- returns  {} or flat (index of the single job from 0, id of the job that is there already);
--          {'full', 'depth' | 'bytes' | 'latency', what is, what may be, ms until a try makes sense} when full
local first = 8
local plain = tonumber(ARGV[7])
local lanes = first + 2 * plain
local singles = lanes + 1 + 4 * tonumber(ARGV[lanes])
local function held_by(mode, key)
  if mode == '' then return false end
  local twin = call('GET', P .. 'u:' .. key)
  -- The holder may have been deleted by hand; its key must not block the name for ever.
  if twin and mode == 'd' and call('HEXISTS', JOBS, twin) == 0 then return false end
  return twin
end

-- What is over which bound if n more jobs of so many bytes come: name, what is, what may be, jobs too many.
local function over(n, bytes)
  local waiting = depth()
  -- An empty queue takes any push, or one larger than the bound could never be stored.
  if n == 0 or waiting <= 0 then return nil end
  local most, most_bytes, most_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
  if most > 0 and waiting + n > most then return 'depth', waiting, most, waiting + n - most end
  if most_bytes > 0 then
    local have = math.max(tonumber(call('HGET', P .. 'stat', 'bytes') or 0), 0)
    if have + bytes > most_bytes then
      return 'bytes', have, most_bytes, (have + bytes - most_bytes) * waiting / math.max(have, 1)
    end
  end
  if most_ms > 0 then
    local now = clock()
    local rate = drain_rate(now) or 0
    local due = waiting - call('ZCARD', SCHED) - call('ZCARD', RETRY)
    local wait = 0
    if rate > 0 then wait = due / rate * 1000 end
    if has_available(ARGV[6]) then
      wait = math.max(wait, now - tonumber(call('HGET', P .. 'stat', 'at:' .. ARGV[6]) or now))
    end
    if wait > most_ms then return 'latency', floor(wait), most_ms, rate * (wait - most_ms) / 1000 end
  end
end

if tonumber(ARGV[1]) + tonumber(ARGV[2]) + tonumber(ARGV[3]) > 0 then
  local n, bytes = tonumber(ARGV[4]), tonumber(ARGV[5])
  local what = over(n, bytes)
  if what then
    -- Jobs that are there already add nothing: a push that is sent again because its answer was lost, or a twin.
    for k = first, lanes - 1, 2 do
      if call('HEXISTS', JOBS, ARGV[k]) == 1 then
        n = n - 1
        bytes = bytes - #ARGV[k + 1]
      end
    end
    local i = singles
    while i <= #ARGV do
      local id, rec, _, mode, key = unpack(ARGV, i, i + 5)
      if held_by(mode, key) or call('HEXISTS', JOBS, id) == 1 then
        n = n - 1
        bytes = bytes - #rec
      end
      i = i + 6
    end
    local what, is, may, many = over(n, bytes)
    if what then
      -- From the measured rate, within 1 s and 5 min; while none is known, a guess.
      local rate = drain_rate(clock())
      local wait = 10000
      if rate then wait = rate > 0 and many / rate * 1000 or 300000 end
      return { 'full', what, floor(is), floor(may), floor(math.max(1000, min(wait, 300000))) }
    end
  end
end

local stored, weight = 0, 0
-- Jobs of one variadic command: Lua's stack bounds `unpack`.
local BLOCK = 250
-- Plain jobs that are there already, by their place: pushes that were sent again because their answer was lost.
local is_old = {}
for from = 1, plain, BLOCK do
  local n = min(BLOCK, plain - from + 1)
  local a = first + 2 * (from - 1)
  local is_fresh = n > 1
  if is_fresh then
    local ids = {}
    for k = 1, n do ids[k] = ARGV[a + 2 * k - 2] end
    for _, rec in ipairs(call('HMGET', JOBS, unpack(ids))) do
      if rec then
        is_fresh = false
        break
      end
    end
  end
  -- Fewer new than sent: an id came twice in one push.
  if not is_fresh or call('HSET', JOBS, unpack(ARGV, a, a + 2 * n - 1)) < n then
    local is_seen = {}
    for k = 1, n do
      local id = ARGV[a + 2 * k - 2]
      if is_fresh then
        -- The last one was stored.
        if is_seen[id] then is_old[is_seen[id]] = true end
        is_seen[id] = from + k - 1
      else
        is_old[from + k - 1] = call('HSETNX', JOBS, id, ARGV[a + 2 * k - 1]) == 0
      end
    end
  end
  for k = 1, n do
    if not is_old[from + k - 1] then
      stored = stored + 1
      weight = weight + #ARGV[a + 2 * k - 1]
    end
  end
end
local at, rotations = first, {}
for i = lanes + 1, singles - 1, 4 do
  local prio, kind, group = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local lane = prio .. ':' .. kind
  local ids = {}
  for _ = 1, tonumber(ARGV[i + 3]) do
    if not is_old[(at - first) / 2 + 1] then ids[#ids + 1] = ARGV[at] end
    at = at + 2
  end
  for from = 1, #ids, BLOCK do
    local n = min(BLOCK, #ids - from + 1)
    if call('RPUSH', P .. 'q:' .. lane .. ':' .. group, unpack(ids, from, from + n - 1)) == n then
      -- The group comes into its rotation; all that do so go there together.
      if not rotations[lane] then rotations[lane] = { kind } end
      local groups = rotations[lane]
      groups[#groups + 1] = group
    end
  end
  if #ids > 0 then wake(kind) end
end
for lane, groups in pairs(rotations) do
  note_kind(groups[1])
  for from = 2, #groups, BLOCK do
    call('RPUSH', P .. 'r:' .. lane, unpack(groups, from, min(from + BLOCK - 1, #groups)))
  end
end
local i = singles
local there = {}
local index, now = 0, 0
while i <= #ARGV do
  local id, rec, due, mode, key, ttl = unpack(ARGV, i, i + 5)
  if now == 0 then now = clock() end
  local twin = held_by(mode, key)
  -- The same id twice is a push that was sent again because its answer was lost; the job may have ended since, so its key stays free.
  if not twin and call('HEXISTS', JOBS, id) == 1 then twin = id end
  if not twin and mode ~= '' then
    local u = P .. 'u:' .. key
    if mode == 'w' then call('SET', u, id, 'PX', ttl) else call('SET', u, id) end
  end
  if twin then
    there[#there + 1] = index
    there[#there + 1] = twin
  else
    call('HSET', JOBS, id, rec)
    stored = stored + 1
    weight = weight + #rec
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
if stored > 0 then call('HINCRBY', P .. 'stat', 'pushed', stored) end
weigh(weight)
return there
