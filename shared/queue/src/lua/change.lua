-- Changes one job by hand.
-- KEYS[1]  prefix
-- ARGV[1]  what: retry, cancel, delete, reschedule, update   [2] id
-- ARGV[3]  delay ms (reschedule), record (update) or the state, as in `State`, out of which only it is taken (retry; '' for any)
-- returns  retry, reschedule, update: 1 done, 0 not possible in its state, -1 no such job
--          cancel: 1 cancelled, 2 its worker was told, 0 already over, -1 no such job;  delete: 1, 0 it is running, -1
local what, id = ARGV[1], ARGV[2]
local rec = call('HGET', JOBS, id)
if not rec then return -1 end
local h = head(rec)
local lease = call('ZSCORE', LEASE, id)
local now = clock()
local is_available, is_over = false, false

-- Takes the job out of the place where it stands; an available job leaves a ghost in its list.
local function lift()
  is_over = call('ZREM', h.state == 'd' and DEAD or h.state == 'x' and CANCELLED or DONE, id) == 1 or h.state ~= 'a'
  is_available = not is_over and call('ZREM', SCHED, id) + call('ZREM', RETRY, id) == 0
end
-- Available again: a ghost of it that still stands in a list comes back to life instead of a second entry.
local function make_ready()
  if take_ghost(id) then wake(h.kind) else ready({ id }, h.prio, h.kind, h.group, false) end
end

-- A job that runs again holds its key again, unless another one has it by now.
local function hold_unique()
  if h.unique ~= '' then call('SET', P .. 'u:' .. h.unique, id, 'NX') end
end

if what == 'cancel' then
  if lease then
    insist()
    call('SADD', P .. 'cancels', id)
    local wid = string.format('%d', floor(tonumber(lease) / 268435456))
    call('RPUSH', P .. 'ctl:' .. wid, 'cancel ' .. id)
    call('EXPIRE', P .. 'ctl:' .. wid, 60)
    return 2
  end
  if h.state ~= 'a' or call('ZSCORE', DONE, id) then return 0 end
  lift()
  if is_available then leave_ghost(id) end
  weigh(-#rec)
  cancelled(id, rec, h, now)
  return 1
end
if lease then return 0 end
if what == 'delete' then
  lift()
  if is_available then leave_ghost(id) end
  if not is_over then weigh(-#rec) end
  release_unique(h, id)
  forget({ id })
  call('DEL', P .. 'res:' .. id)
  notify({ id }, 'g')
  return 1
end
if what == 'retry' then
  local place = ({ dead = DEAD, cancelled = CANCELLED, completed = DONE, scheduled = SCHED, retryable = RETRY })[ARGV[3]]
  -- Whoever listed jobs of one state must not run those again that went on since.
  if ARGV[3] ~= '' and not (place and call('ZSCORE', place, id)) then return 0 end
  lift()
  if is_available then return 0 end
  if is_over then
    weigh(#rec)
    hold_unique()
  end
  call('HSET', JOBS, id, stamped(rec, 'a', 0, 0))
  make_ready()
  return 1
end
if what == 'update' then
  -- The head stays as Redis has it; the caller's record only brings a new payload and metadata.
  call('HSET', JOBS, id, sub(rec, 1, 5) .. sub(ARGV[3], 6))
  if h.state == 'a' and not call('ZSCORE', DONE, id) then weigh(#ARGV[3] - #rec) end
  return 1
end
if what == 'reschedule' then
  lift()
  if is_available then leave_ghost(id) end
  if is_over then
    weigh(#rec)
    hold_unique()
  end
  call('HSET', JOBS, id, stamped(rec, 'a', h.attempts, h.kills))
  call('ZADD', SCHED, now + tonumber(ARGV[3]), id)
  if call('ZRANGE', SCHED, 0, 0)[1] == id then wake(h.kind) end
  return 1
end
return redis.error_reply('unknown change ' .. what)
