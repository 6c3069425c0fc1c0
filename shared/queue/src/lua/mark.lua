-- Notes that a suspect (a job whose earlier worker died) really starts now.
-- KEYS[1]  prefix
-- ARGV[1]  id   [2] token   [3] worker number
-- returns  1 noted, 0 the lease is lost
if call('ZSCORE', LEASE, ARGV[1]) ~= ARGV[2] then return 0 end
insist()
call('HSET', P .. 'started', ARGV[1], ARGV[3])
return 1
