-- What scripts that settle jobs share, behind base.lua: groups' caps, side tables, ends, retention.
local RUN = P .. 'run'

local function stamped(r, state, attempts, kills)
  return state .. sub(r, 2, 2) .. struct.pack('>HB', min(attempts, 65535), min(kills, 255)) .. sub(r, 6)
end

local function unpark(group)
  if call('EXISTS', P .. 'parked') == 0 then return end
  local lanes = call('HGET', P .. 'parked', group)
  if not lanes then return end
  call('HDEL', P .. 'parked', group)
  for lane in string.gmatch(lanes, '[^,]+') do
    local kind = sub(lane, 3)
    begin_wait(kind)
    call('LPUSH', P .. 'r:' .. lane, group)
    wake(kind)
  end
end

-- These jobs stopped running. Which of them count against their group's cap is written down when they are claimed, so
-- a queue without caps pays one EXISTS, and a cap that comes or goes while jobs run miscounts none.
local function uncount(ids)
  if call('EXISTS', P .. 'capped') == 0 then return end
  local groups = call('HMGET', P .. 'capped', unpack(ids))
  call('HDEL', P .. 'capped', unpack(ids))
  local ended = {}
  for k = 1, #ids do
    local group = groups[k]
    if group then ended[group] = (ended[group] or 0) + 1 end
  end
  for group, n in pairs(ended) do
    if call('HINCRBY', RUN, group, -n) <= 0 then call('HDEL', RUN, group) end
    unpark(group)
  end
end

local function count(field, n) call('HINCRBY', P .. 'stat', field, n) end

local function completed(n, now)
  count('completed', n)
  call('HINCRBY', P .. 'days', floor(now / 86400000), n)
end

-- Tells those who wait for a job's end; costs one EXISTS where nobody waits.
local function notify(ids, state)
  if call('EXISTS', P .. 'waiters') == 0 then return end
  for _, id in ipairs(ids) do
    if call('HDEL', P .. 'waiters', id) == 1 then call('PUBLISH', P .. 'ev', state .. id) end
  end
end

-- Whether a job that completes may have left something elsewhere. Usually not, and one call tells.
local function has_traces()
  return call('EXISTS', P .. 'capped', P .. 'waiters', P .. 'err', P .. 'prog', P .. 'cancels', P .. 'started') > 0
end

-- Side tables are usually absent, and one call tells.
local function forget_extras(ids)
  if call('EXISTS', P .. 'err', P .. 'prog', P .. 'cancels', P .. 'started') == 0 then return end
  call('HDEL', P .. 'err', unpack(ids))
  call('HDEL', P .. 'prog', unpack(ids))
  call('SREM', P .. 'cancels', unpack(ids))
  call('HDEL', P .. 'started', unpack(ids))
end

local function forget(ids)
  call('HDEL', JOBS, unpack(ids))
  forget_extras(ids)
end

local function release_unique(h, id)
  if h.unique == '' then return end
  local key = P .. 'u:' .. h.unique
  if call('GET', key) == id then call('DEL', key) end
end

-- Removes at most `limit` finished jobs that are too old or too many.
local function trim(z, now, keep_ms, keep_n, limit)
  local over = call('ZCARD', z) - keep_n
  local ids
  if over > 0 then
    ids = call('ZRANGE', z, 0, min(over, limit) - 1)
  else
    ids = call('ZRANGEBYSCORE', z, '-inf', now - keep_ms, 'LIMIT', 0, limit)
  end
  if #ids > 0 then
    call('ZREM', z, unpack(ids))
    forget(ids)
  end
  return #ids
end

local function bury(id, rec, h, attempts, kills, now, err)
  call('HSET', JOBS, id, stamped(rec, 'd', attempts, kills))
  if err ~= '' then call('HSET', P .. 'err', id, err) end
  call('HDEL', P .. 'prog', id)
  call('ZADD', DEAD, now, id)
  call('SREM', P .. 'cancels', id)
  release_unique(h, id)
  count('dead', 1)
  notify({ id }, 'd')
end

local function cancelled(id, rec, h, now)
  call('HSET', JOBS, id, stamped(rec, 'x', h.attempts, h.kills))
  call('ZADD', CANCELLED, now, id)
  call('SREM', P .. 'cancels', id)
  call('HDEL', P .. 'prog', id)
  release_unique(h, id)
  count('cancelled', 1)
  notify({ id }, 'x')
end

-- A list cannot be searched in bounded time: a job that leaves one leaves its place there, a ghost. Counted, as one id can leave several.
local function leave_ghost(id) call('HINCRBY', P .. 'ghosts', id, 1) end
-- Whether a place of the job is a ghost's; then there is one less.
local function take_ghost(id)
  local n = call('HGET', P .. 'ghosts', id)
  if not n then return false end
  if n == '1' then call('HDEL', P .. 'ghosts', id) else call('HINCRBY', P .. 'ghosts', id, -1) end
  return true
end
