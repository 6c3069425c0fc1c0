-- Registers a worker under the number it proposes; its lease tokens are number * 2^28 + 1 and up.
-- Proposed at random instead of counted here: a count is lost with Redis' data, and a failover forgets its last steps, so that a new
-- worker would get the number of one that still lives; they would take each other's jobs for their own.
-- KEYS[1]  prefix
-- ARGV[1]  lease ms   [2] the worker's description (JSON)   [3] 1 when it holds jobs that it has not started
-- ARGV[4]  the number, from 1 to 2^25 - 1
-- returns  1, or 0 where another worker has that number or jobs are leased under it
local now, wid = clock(), tonumber(ARGV[4])
local low = wid * 268435456
if call('EXISTS', P .. 'w:' .. wid) == 1 or call('ZCOUNT', LEASE, low, low + 268435455) > 0 then return 0 end
insist()
call('HSET', P .. 'w:' .. wid, 'f', low + 1, 'info', ARGV[2], 'beat', now, 'pre', ARGV[3])
call('ZADD', P .. 'workers', now + tonumber(ARGV[1]), wid)
return 1
