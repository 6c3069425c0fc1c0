-- Shared by every script but those that stand alone; Rust puts this text in front of each of them.
-- KEYS[1]  prefix of all keys of one queue, e.g. `aq:{images}:`. It carries the hash tag, so every key a script
--          derives from it lives in the slot that the call was routed to.
-- The record's layout is described in record.rs; only its fixed head and the three short strings are read here.
local P = KEYS[1]
local call, byte, sub, floor, min = redis.call, string.byte, string.sub, math.floor, math.min
local JOBS, LEASE, SCHED, RETRY = P .. 'jobs', P .. 'lease', P .. 'sched', P .. 'retry'
local DONE, DEAD, CANCELLED = P .. 'done', P .. 'dead', P .. 'cancelled'

-- Redis' own clock: the only one that all workers share.
local function clock()
  local t = call('TIME')
  return t[1] * 1000 + floor(t[2] / 1000)
end

local function head(r)
  local _, _, a1, a2, kills, m1, m2, kl, gl, ul = byte(r, 1, 10)
  -- A kind's length carries 128 more where the record has a tail, which no script reads.
  local g = 17 + kl % 128
  local u = g + gl
  return {
    state = sub(r, 1, 1), prio = sub(r, 2, 2), attempts = a1 * 256 + a2, kills = kills, max = m1 * 256 + m2,
    kind = sub(r, 17, g - 1), group = sub(r, g, u - 1), unique = sub(r, u, u + ul - 1),
  }
end

-- Jobs that wait: all that are stored, but for those that run or are over.
local function depth()
  return call('HLEN', JOBS) - call('ZCARD', LEASE) - call('ZCARD', DONE) - call('ZCARD', DEAD) - call('ZCARD', CANCELLED)
end

-- Keeps count of the bytes of the records that wait: more when jobs come or come back, less when they are claimed or taken away.
local function weigh(bytes)
  if bytes ~= 0 then call('HINCRBY', P .. 'stat', 'bytes', bytes) end
end

-- One token is enough: the worker that takes it passes it on while work remains.
local awake, known = {}, {}
local function wake(kind)
  if awake[kind] then return end
  awake[kind] = true
  local key = P .. 'wk:' .. kind
  -- A full Redis refuses it where it would be the first write; what else the script says must not be lost with it.
  if call('EXISTS', key) == 0 then redis.pcall('RPUSH', key, '1') end
end

-- A full Redis refuses a script's first write if that can take memory, and only the first. What makes workers live and jobs end is
-- small, and a full queue cannot be emptied without it: so this goes before, which takes none.
local function insist() call('DEL', P .. 'none') end

-- What was measured over the last minute says nothing later.
local WINDOW = 65000
-- Jobs that end a second while others wait, as heartbeats measured it; nil where that was not of late.
local function drain_rate(now)
  local s = call('HMGET', P .. 'stat', 'drain', 'drain_at')
  if s[1] and now - tonumber(s[2] or 0) <= WINDOW then return tonumber(s[1]) end
end

local function has_available(kind)
  return call('EXISTS', P .. 'r:h:' .. kind, P .. 'r:n:' .. kind, P .. 'r:l:' .. kind) > 0
end

-- To be called before a job of the kind gets available. Field `at:<kind>` of `stat` is since when jobs of the kind wait and none of
-- them was taken: since one was available at all, or since the last claim.
local function begin_wait(kind)
  if not has_available(kind) then call('HSET', P .. 'stat', 'at:' .. kind, string.format('%d', clock())) end
end

-- Jobs of the kind get available in a rotation that may have been empty.
local function note_kind(kind)
  if known[kind] then return end
  known[kind] = true
  call('SADD', P .. 'kinds', kind)
  begin_wait(kind)
end

-- A group stands in its rotation exactly while its list is not empty and it is not parked at its cap.
local function ready(ids, prio, kind, group, front)
  local lane = prio .. ':' .. kind
  local n = call(front and 'LPUSH' or 'RPUSH', P .. 'q:' .. lane .. ':' .. group, unpack(ids))
  if n == #ids then
    note_kind(kind)
    call('RPUSH', P .. 'r:' .. lane, group)
  end
  wake(kind)
end
