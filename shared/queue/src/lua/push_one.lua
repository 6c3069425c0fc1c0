-- Stores one plain job and makes it available: push.lua for the commonest push, to a queue without bounds. A third of the time that a
-- worker at rest takes to pick a job up is spent in scripts, most of it on defining what they share and on numbers written as text:
-- so this one stands alone, and passes texts on as it got them.
-- KEYS[1]  prefix
-- ARGV[1]  id   [2] record   [3] its bytes   [4] prio   [5] kind   [6] group
-- returns  {}
local P, call = KEYS[1], redis.call
local id, kind, group = ARGV[1], ARGV[5], ARGV[6]
-- One that is there already is a push that was sent again because its answer was lost.
if call('HSETNX', P .. 'jobs', id, ARGV[2]) == 0 then return {} end
local stat, lane = P .. 'stat', ARGV[4] .. ':' .. kind
if call('RPUSH', P .. 'q:' .. lane .. ':' .. group, id) == 1 then
  if call('EXISTS', P .. 'r:h:' .. kind, P .. 'r:n:' .. kind, P .. 'r:l:' .. kind) == 0 then
    -- Seconds and the first three of six digits of microseconds.
    local t = call('TIME')
    local now = t[1] .. string.sub('00000' .. t[2], -6, -4)
    -- Whoever notes the time notes the kind, and neither is ever taken back alone.
    if call('HSET', stat, 'at:' .. kind, now) == 1 then call('SADD', P .. 'kinds', kind) end
  end
  call('RPUSH', P .. 'r:' .. lane, group)
end
local token = P .. 'wk:' .. kind
if call('EXISTS', token) == 0 then call('RPUSH', token, '1') end
call('HINCRBY', stat, 'pushed', '1')
call('HINCRBY', stat, 'bytes', ARGV[3])
return {}
