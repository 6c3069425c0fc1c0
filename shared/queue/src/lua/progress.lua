-- Notes how far a running job is, if the caller still holds it.
-- KEYS[1]  prefix
-- ARGV[1]  id   [2] token   [3] progress (JSON)
-- returns  1 noted, 0 the lease is lost
if call('ZSCORE', LEASE, ARGV[1]) ~= ARGV[2] then return 0 end
call('HSET', P .. 'prog', ARGV[1], ARGV[3])
return 1
