-- Claims one job for a worker that waited for it. The worker makes a step right after it, which does what can wait and what is rare;
-- this is the part of step.lua for which the job waits, and stands alone for the reason that push_one.lua gives.
-- KEYS[1]  prefix
-- ARGV[1]  worker number   [2] token of the job   [3] the one after it   [4] kind
-- ARGV[5]  1 when the worker could run a job of those that it claimed last, or claimed none yet
-- returns  {status, id, record}; {status, ''} when nothing is there and nothing gets due; {status} when it takes a step to tell
--          status: 0 fine, 1 this worker number is not registered, 2 the token was used before
local P, call = KEYS[1], redis.call
local worker, kind = P .. 'w:' .. ARGV[1], ARGV[4]
local high, normal, low = P .. 'r:h:' .. kind, P .. 'r:n:' .. kind, P .. 'r:l:' .. kind
-- Another worker is woken while work remains, as by wake in base.lua; tells whether some does.
local function pass_on()
  if call('EXISTS', high, normal, low) == 0 then return false end
  local token = P .. 'wk:' .. kind
  if call('EXISTS', token) == 0 then redis.pcall('RPUSH', token, '1') end
  return true
end

local used = call('HGET', worker, 'f')
if used ~= ARGV[2] then
  local is_unknown = not used or used == 'x'
  if is_unknown or tonumber(used) > tonumber(ARGV[2]) then
    pass_on()
    return { is_unknown and 1 or 2 }
  end
end
local cfg = call('HMGET', P .. 'cfg', 'paused', 'rate', 'cap')
if cfg[1] or cfg[2] then return { 0 } end
-- From the top: whoever waits left no job behind, so this starves none, and the step that follows gives each lane its share.
local lane, rotation = 'h:', high
local group = call('LPOP', high)
if not group then
  lane, rotation = 'n:', normal
  group = call('LPOP', normal)
end
if not group then
  lane, rotation = 'l:', low
  group = call('LPOP', low)
end
-- An idle worker's look, usually: nothing waits, and nothing gets due.
if not group then return { 0, call('EXISTS', P .. 'sched', P .. 'retry') == 0 and '' or nil } end
local is_capped = cfg[3] and group ~= ''
if is_capped and tonumber(call('HGET', P .. 'run', group) or 0) >= tonumber(cfg[3]) then
  call('LPUSH', rotation, group)
  return { 0 }
end
local list = P .. 'q:' .. lane .. kind .. ':' .. group
local id = call('LPOP', list)
-- A rotation that names what is gone, as after a key was lost: its entry ends here.
if not id then return { 0 } end
if call('EXISTS', list) == 1 then call('RPUSH', rotation, group) end
local rec = call('HGET', P .. 'jobs', id)
-- Cancelled, deleted or moved while it waited; its place in the list ends here.
local ghosts = call('HGET', P .. 'ghosts', id)
if ghosts == '1' then
  call('HDEL', P .. 'ghosts', id)
elseif ghosts then
  call('HINCRBY', P .. 'ghosts', id, -1)
end
if ghosts or not rec or string.byte(rec, 1) ~= 97 then return { 0 } end
-- A second entry of a running job: a lease must never change hands by accident.
if call('ZADD', P .. 'lease', 'NX', ARGV[2], id) == 0 then return { 0 } end
call('HSET', worker, 'f', ARGV[3])
call('HINCRBY', P .. 'stat', 'bytes', string.format('%d', -#rec))
if is_capped then
  call('HSET', P .. 'capped', id, group)
  call('HINCRBY', P .. 'run', group, '1')
end
-- Who only hands back keeps no job from waiting. While none waits, the next push says since when.
if pass_on() and ARGV[5] == '1' then
  local t = call('TIME')
  call('HSET', P .. 'stat', 'at:' .. kind, t[1] .. string.sub('00000' .. t[2], -6, -4))
end
return { 0, id, rec }
