-- One round trip of a worker: settle what it finished, make due jobs available, claim the next ones.
-- KEYS[1]  prefix
-- ARGV[1]  worker number   [2] token of the first job to claim   [3] how many to claim (at most 500)   [4] kind
-- ARGV[5]  ms to keep a completed job   [6] how many completed jobs to keep   [7] ms to keep a result
-- ARGV[8]  ms to keep a dead or cancelled job   [9] how many of each   [10] most due jobs to move
-- ARGV[11] us that the runs took which ended
-- ARGV[12] 1 when the worker could run a job of those that it claimed last, or claimed none yet
-- ARGV[13] number of buckets of plain completions; each: n (at most 500), the first of their tokens where these follow each other or
--          else '', n ids, and n tokens where they do not
-- then     any number of (id, token, outcome, delay ms, error, result); outcome: c completed, r failed, d dead,
--          x cancelled, u returned without spending an attempt, b handed back because this worker cannot run it: not started,
--          so it does not count against the queue's rate either
-- returns  {status, ms until the next due job or -1, ids whose lease was lost, claimed ids, their records, more}
--          status: 0 fine, 1 this worker number is not registered, 2 the tokens were used before (told to who wants jobs), 3 paused
--          more: 1 when available jobs of this kind are left
local now = clock()
local base, want, kind = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local keep_ms, keep_n = tonumber(ARGV[5]), tonumber(ARGV[6])
-- Lua writes large numbers slowly, and this one goes into many scores.
local now_text = string.format('%d', now)
local lost = {}
local i = 14
local traces = ARGV[13] ~= '0' and has_traces()
-- Bytes of records that wait again.
local back = 0

-- Ends the leases of n jobs, whose ids begin at ARGV[a], that have the expected tokens; the others are lost.
local function release(n, a, first)
  if first then
    local from, to = string.format('%d', first), string.format('%d', first + n - 1)
    local held = call('ZRANGEBYSCORE', LEASE, from, to)
    -- No token is given out twice: n leases among n tokens have one each, in this order, and need not tell which. Redis writes a
    -- score in more time than it takes to find one.
    local k = #held == n and 1 or n + 2
    while k <= n and held[k] == ARGV[a + k - 1] do k = k + 1 end
    if k == n + 1 then
      call('ZREMRANGEBYSCORE', LEASE, from, to)
      return held
    end
  end
  local scores = call('ZMSCORE', LEASE, unpack(ARGV, a, a + n - 1))
  local ids = {}
  for k = 1, n do
    local token = first and string.format('%d', first + k - 1) or ARGV[a + n + k - 1]
    if scores[k] == token then ids[#ids + 1] = ARGV[a + k - 1] else lost[#lost + 1] = ARGV[a + k - 1] end
  end
  if #ids > 0 then call('ZREM', LEASE, unpack(ids)) end
  return ids
end

local ended = 0
for _ = 1, tonumber(ARGV[13]) do
  local n, first = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  local ids = release(n, i + 2, first)
  if #ids > 0 then
    ended = ended + #ids
    if keep_ms > 0 and keep_n > 0 then
      local z = {}
      for k = 1, #ids do z[2 * k - 1] = now_text z[2 * k] = ids[k] end
      call('ZADD', DONE, unpack(z))
      trim(DONE, now, keep_ms, keep_n, 500)
    else
      call('HDEL', JOBS, unpack(ids))
    end
    if traces then
      forget_extras(ids)
      uncount(ids)
      notify(ids, 'c')
    end
  end
  i = i + 2 + (first and n or 2 * n)
end
if ended > 0 then completed(ended, now) end

local function settle(id, token, outcome, delay, err, result)
  if call('ZSCORE', LEASE, id) ~= token then
    lost[#lost + 1] = id
    return
  end
  call('ZREM', LEASE, id)
  call('HDEL', P .. 'started', id)
  uncount({ id })
  local rec = call('HGET', JOBS, id)
  if not rec then return end
  local h = head(rec)
  local is_cancelled = call('SISMEMBER', P .. 'cancels', id) == 1
  if outcome == 'c' then
    if result ~= '' then call('SET', P .. 'res:' .. id, result, 'PX', ARGV[7]) end
    release_unique(h, id)
    completed(1, now)
    if keep_ms > 0 and keep_n > 0 then
      call('ZADD', DONE, now, id)
      forget_extras({ id })
      trim(DONE, now, keep_ms, keep_n, 2)
    else
      forget({ id })
    end
    notify({ id }, 'c')
  elseif outcome == 'x' or (is_cancelled and outcome ~= 'd') then
    if err ~= '' then call('HSET', P .. 'err', id, err) end
    cancelled(id, rec, h, now)
    trim(CANCELLED, now, tonumber(ARGV[8]), tonumber(ARGV[9]), 2)
  elseif outcome == 'u' or outcome == 'b' then
    back = back + #rec
    -- More than the burst is cut off where the tokens are read.
    if outcome == 'b' and call('HEXISTS', P .. 'rl', 't') == 1 then call('HINCRBYFLOAT', P .. 'rl', 't', 1) end
    if delay > 0 then
      call('ZADD', SCHED, now + delay, id)
    else
      ready({ id }, h.prio, h.kind, h.group, true)
    end
  elseif outcome == 'd' or h.attempts + 1 >= h.max then
    count('failed', 1)
    bury(id, rec, h, h.attempts + 1, h.kills, now, err)
    trim(DEAD, now, tonumber(ARGV[8]), tonumber(ARGV[9]), 2)
  else
    count('failed', 1)
    call('HSET', JOBS, id, stamped(rec, 'a', h.attempts + 1, h.kills))
    call('HSET', P .. 'err', id, err)
    back = back + #rec
    call('ZADD', RETRY, now + delay, id)
  end
end
while i <= #ARGV do
  local id, token, outcome, delay, err, result = unpack(ARGV, i, i + 5)
  settle(id, token, outcome, tonumber(delay), err, result)
  i = i + 6
end

weigh(back)
if ARGV[11] ~= '0' then count('run_us', ARGV[11]) end

-- Due jobs, in bounded parts; whoever comes next moves the rest.
local next_due = -1
local ghosts
local function has_ghosts()
  if ghosts == nil then ghosts = call('EXISTS', P .. 'ghosts') == 1 end
  return ghosts
end
local function promote(z)
  local first = call('ZRANGE', z, 0, 0, 'WITHSCORES')[2]
  if not first then return end
  if tonumber(first) <= now then
    local due = call('ZRANGEBYSCORE', z, '-inf', now_text, 'LIMIT', 0, ARGV[10])
    call('ZREM', z, unpack(due))
    local recs = call('HMGET', JOBS, unpack(due))
    local lanes = {}
    for k = 1, #due do
      local r = recs[k]
      if r then
        local h = head(r)
        -- Its old place in a list, if it still has one, serves again.
        if has_ghosts() and take_ghost(due[k]) then
          wake(h.kind)
          h = nil
        end
        if h then
          local lane = h.prio .. h.kind .. ':' .. h.group
          if not lanes[lane] then lanes[lane] = { h, {} } end
          local ids = lanes[lane][2]
          ids[#ids + 1] = due[k]
        end
      end
    end
    for _, lane in pairs(lanes) do ready(lane[2], lane[1].prio, lane[1].kind, lane[1].group, false) end
    first = call('ZRANGE', z, 0, 0, 'WITHSCORES')[2]
  end
  if first then
    local ms = tonumber(first) - now
    if ms < 0 then ms = 0 end
    if next_due < 0 or ms < next_due then next_due = ms end
  end
end
promote(SCHED)
promote(RETRY)

local used = call('HGET', P .. 'w:' .. ARGV[1], 'f')
local is_unknown = not used or used == 'x'
-- A call that claims nothing gives no token out. The wait that claims may have got there first, with the same one: its job is the worker's.
if is_unknown or (want > 0 and tonumber(used) > base) then
  -- A call that its worker gave up may have taken the token of work that it must not claim.
  if want > 0 and has_available(kind) then wake(kind) end
  return { is_unknown and 1 or 2, next_due, lost, {}, {}, 0 }
end
local cfg = call('HMGET', P .. 'cfg', 'paused', 'rate', 'burst', 'cap')
if cfg[1] then return { 3, next_due, lost, {}, {}, 0 } end

local tokens
if cfg[2] and want > 0 then
  -- Token bucket: refilled by the time that passed, spent by what is claimed, in this one step for all workers.
  local rate, burst = tonumber(cfg[2]), tonumber(cfg[3])
  local bucket = call('HMGET', P .. 'rl', 't', 'at')
  tokens = burst
  if bucket[1] then
    -- Filled in the future: the clock went back. It fills on from here, or nothing would be let through until then.
    if tonumber(bucket[2]) > now then
      insist()
      call('HSET', P .. 'rl', 'at', now_text)
      bucket[2] = now
    end
    tokens = min(burst, tonumber(bucket[1]) + (now - tonumber(bucket[2])) * rate / 1000)
  end
  if tokens < want then want = floor(tokens) end
end

local ids, recs, groups = {}, {}, {}
local cap = cfg[4] and tonumber(cfg[4])
local running = {}
local function room_of(group)
  if not running[group] then running[group] = tonumber(call('HGET', RUN, group) or 0) end
  return cap - running[group]
end
local function park(group, lane)
  local lanes = call('HGET', P .. 'parked', group)
  call('HSET', P .. 'parked', group, lanes and (lanes .. ',' .. lane) or lane)
end
-- Lanes in whose rotation nobody stands.
local is_spent = {}
-- Serves the lane's groups in turn, each with an equal share of what is wanted, until n jobs are taken or none is left.
local function take(prio, n)
  local lane = prio .. ':' .. kind
  local rotation, stem = P .. 'r:' .. lane, P .. 'q:' .. lane .. ':'
  while n > 0 and not is_spent[prio] do
    local most_groups = min(n, 500)
    local turn = call('LPOP', rotation, most_groups) or {}
    local share = floor(n / #turn)
    -- Groups that gave all that was asked of them: they may have more.
    local back, lists = {}, {}
    for _, group in ipairs(turn) do
      local most = share
      if cap and group ~= '' then most = min(share, room_of(group)) end
      if most <= 0 then
        park(group, lane)
      else
        local list = stem .. group
        local got = call('LPOP', list, most) or {}
        local at = #ids
        for k = 1, #got do
          ids[at + k] = got[k]
          groups[at + k] = group
        end
        n = n - #got
        if running[group] then running[group] = running[group] + #got end
        if #got == most then
          back[#back + 1] = group
          lists[#lists + 1] = list
        end
      end
    end
    if #lists > 0 and call('EXISTS', unpack(lists)) < #lists then
      local left = {}
      for k = 1, #lists do
        if call('EXISTS', lists[k]) == 1 then left[#left + 1] = back[k] end
      end
      back = left
    end
    if #back > 0 then call('RPUSH', rotation, unpack(back)) end
    is_spent[prio] = #turn < most_groups and #back == 0
  end
  return n
end

-- Of 21 claimed jobs 16 go to the high, 4 to the normal and 1 to the low lane first; what a lane leaves over goes to
-- the others from the top. The tokens count the worker's claims, so they tell where in the 21 it stands.
if want > 0 then
  local low, normal = 0, 0
  if want >= 21 then
    low, normal = floor(want / 21), floor(want * 4 / 21)
  else
    for k = base, base + want - 1 do
      local turn = k % 21
      if turn == 20 then low = low + 1 elseif turn % 5 == 4 then normal = normal + 1 end
    end
  end
  local left = take('h', want - low - normal)
  left = take('n', left + normal)
  left = take('l', left + low)
  if left > 0 then left = take('h', left) end
  if left > 0 then left = take('n', left) end
end

local claimed = 0
if #ids > 0 then
  local found = call('HMGET', JOBS, unpack(ids))
  local ghosts_of = has_ghosts() and call('HMGET', P .. 'ghosts', unpack(ids))
  local z, counted, kept, freed, weight = {}, {}, {}, {}, 0
  for k = 1, #ids do
    local r = found[k]
    -- Cancelled, deleted or moved while it waited; its place in the list ends here.
    local is_ghost = ghosts_of and ghosts_of[k] and take_ghost(ids[k])
    if r and byte(r, 1) == 97 and not is_ghost then
      claimed = claimed + 1
      weight = weight + #r
      kept[claimed], recs[claimed] = ids[k], r
      z[2 * claimed - 1] = string.format('%d', base + claimed - 1)
      z[2 * claimed] = ids[k]
      counted[claimed] = cap and groups[k] ~= '' and groups[k]
    elseif cap and groups[k] ~= '' then
      freed[groups[k]] = true
    end
  end
  ids = kept
  if claimed > 0 then
    if call('ZADD', LEASE, 'NX', unpack(z)) ~= claimed then
      -- A second entry of a running job: nothing here makes one, but a lease must never change hands by accident. Its empty
      -- record tells the worker to pass over it.
      local have = call('ZMSCORE', LEASE, unpack(ids))
      for k = 1, claimed do
        if tonumber(have[k]) ~= base + k - 1 then
          weight = weight - #recs[k]
          recs[k] = ''
          if counted[k] then freed[counted[k]] = true end
          counted[k] = false
        end
      end
    end
    call('HSET', P .. 'w:' .. ARGV[1], 'f', string.format('%d', base + claimed))
    -- Who only hands back keeps no job from waiting.
    if ARGV[12] == '1' then call('HSET', P .. 'stat', 'at:' .. kind, now_text) end
    weigh(-weight)
    local capped, more_of = {}, {}
    for k = 1, claimed do
      local group = counted[k]
      if group then
        capped[#capped + 1] = ids[k]
        capped[#capped + 1] = group
        more_of[group] = (more_of[group] or 0) + 1
      end
    end
    if #capped > 0 then call('HSET', P .. 'capped', unpack(capped)) end
    for group, n in pairs(more_of) do call('HINCRBY', RUN, group, n) end
  end
  -- What turned out to be no job took no place below its group's cap: a group that was parked for it goes on.
  for group in pairs(freed) do
    if tonumber(call('HGET', RUN, group) or 0) < cap then unpark(group) end
  end
end
local more = has_available(kind) and 1 or 0
if tokens then
  tokens = tokens - claimed
  if claimed > 0 then call('HSET', P .. 'rl', 't', tokens, 'at', now_text) end
  if more == 1 and tokens < 1 then
    more = 0
    local ms = math.ceil((1 - tokens) * 1000 / tonumber(cfg[2]))
    if next_due < 0 or ms < next_due then next_due = ms end
  end
end
if more == 1 then wake(kind) end
return { 0, next_due, lost, ids, recs, more }
