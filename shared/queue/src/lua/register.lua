-- Gives a worker a number that no living worker has; its lease tokens are number * 2^28 + 1 and up.
-- KEYS[1]  prefix
-- ARGV[1]  lease ms   [2] the worker's description (JSON)   [3] 1 when it holds jobs that it has not started
-- returns  the number, from 1 to 2^25 - 1
local now = clock()
local wid
repeat
  wid = call('INCR', P .. 'wid') % 33554432
until wid > 0 and call('EXISTS', P .. 'w:' .. wid) == 0
call('HSET', P .. 'w:' .. wid, 'f', wid * 268435456 + 1, 'info', ARGV[2], 'beat', now, 'pre', ARGV[3])
call('ZADD', P .. 'workers', now + tonumber(ARGV[1]), wid)
return wid
