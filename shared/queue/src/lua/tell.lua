-- Leaves a word for somebody who waits for it: a command to a worker, or a worker's answer. Also where Redis is full.
-- KEYS[1]  prefix
-- ARGV[1]  name of the list   [2] the word   [3] s that it is kept
-- returns  1
insist()
call('RPUSH', P .. ARGV[1], ARGV[2])
call('EXPIRE', P .. ARGV[1], ARGV[3])
return 1
