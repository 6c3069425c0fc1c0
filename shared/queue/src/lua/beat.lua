-- A worker's sign of life; it also looks after workers that gave none, and trims what retention ended.
-- KEYS[1]  prefix
-- ARGV[1]  worker number, or 0 to look after others only   [2] lease ms   [3] grace ms   [4] kills that make poison
-- ARGV[5]  the worker's description (JSON)   [6] ms to keep completed   [7] how many
-- ARGV[8]  ms to keep dead and cancelled   [9] how many   [10] error text (JSON) for poison   [11] most jobs to recover
-- ARGV[12] the worker's kind
-- returns  {status, recovered jobs, 1 when there is more to recover, 1 when jobs of the kind wait and nothing keeps them};
--          status 1: this worker number is not registered
local now = clock()
local limit = tonumber(ARGV[11])
insist()
local status = 0
if ARGV[1] ~= '0' then
  local me = P .. 'w:' .. ARGV[1]
  local used = call('HGET', me, 'f')
  if not used or used == 'x' then
    status = 1
  else
    call('HSET', me, 'info', ARGV[5], 'beat', now)
    call('HDEL', me, 'late')
    call('ZADD', P .. 'workers', now + tonumber(ARGV[2]), ARGV[1])
  end
end

local recovered, more = 0, 0
local function recover(wid)
  local low = tonumber(wid) * 268435456
  -- The last claimed goes back first, so that they stand as they stood.
  local ids = call('ZREVRANGEBYSCORE', LEASE, low + 268435455, low, 'LIMIT', 0, limit - recovered)
  if #ids == 0 then
    call('DEL', P .. 'w:' .. wid, P .. 'ctl:' .. wid)
    call('ZREM', P .. 'workers', wid)
    return
  end
  more = 1
  recovered = recovered + #ids
  local is_prefetching = call('HGET', P .. 'w:' .. wid, 'pre') == '1'
  local recs = call('HMGET', JOBS, unpack(ids))
  local started = call('HMGET', P .. 'started', unpack(ids))
  call('ZREM', LEASE, unpack(ids))
  uncount(ids)
  call('HDEL', P .. 'started', unpack(ids))
  local back = 0
  for k, id in ipairs(ids) do
    local rec = recs[k]
    if rec then
      local h = head(rec)
      -- A prefetching worker holds jobs that it never started: those are only suspects, and from then on mark
      -- their start, so that the next death is counted against the jobs that really ran.
      local ran = not is_prefetching or started[k] == wid
      local attempts, kills = h.attempts, h.kills
      if ran then
        attempts = attempts + 1
        kills = kills + 1
      elseif kills == 0 then
        kills = 1
      end
      if call('SISMEMBER', P .. 'cancels', id) == 1 then
        cancelled(id, rec, h, now)
      elseif ran and kills >= tonumber(ARGV[4]) then
        bury(id, rec, h, attempts, kills, now, ARGV[10])
      elseif ran and attempts >= h.max then
        bury(id, rec, h, attempts, kills, now, ARGV[10])
      else
        call('HSET', JOBS, id, stamped(rec, 'a', attempts, kills))
        back = back + #rec
        ready({ id }, h.prio, h.kind, h.group, true)
      end
    end
  end
  weigh(back)
  count('rescued', #ids)
end
for _, wid in ipairs(call('ZRANGEBYSCORE', P .. 'workers', '-inf', now, 'LIMIT', 0, 10)) do
  if recovered >= limit then break end
  local w = P .. 'w:' .. wid
  local late = call('HGET', w, 'late')
  if not late then
    -- Redis itself may have been away: give the worker a moment to show that it lives.
    call('HSET', w, 'late', now)
  elseif now - tonumber(late) >= tonumber(ARGV[3]) then
    call('HSET', w, 'f', 'x')
    recover(wid)
  end
end
sample(now)
trim(DONE, now, tonumber(ARGV[6]), tonumber(ARGV[7]), 200)
trim(DEAD, now, tonumber(ARGV[8]), tonumber(ARGV[9]), 200)
trim(CANCELLED, now, tonumber(ARGV[8]), tonumber(ARGV[9]), 200)
-- All that are too old: on some days no worker may have lived.
local oldest_day = floor(now / 86400000) - 29
if call('HLEN', P .. 'days') > 30 then
  for _, day in ipairs(call('HKEYS', P .. 'days')) do
    if tonumber(day) < oldest_day then call('HDEL', P .. 'days', day) end
  end
end
-- A safety net below every wake-up path: available work and no token is set right within one beat.
local kinds = call('SRANDMEMBER', P .. 'kinds', 10)
kinds[#kinds + 1] = ARGV[12]
for _, kind in ipairs(kinds) do
  if has_available(kind) and call('HEXISTS', P .. 'cfg', 'paused') == 0 then wake(kind) end
end
local offered = 0
local kind = ARGV[12]
local cfg = call('HMGET', P .. 'cfg', 'paused', 'rate')
if not cfg[1] and not cfg[2] and has_available(kind) then offered = 1 end
return { status, recovered, more, offered }
