-- ARGV[12] member   ARGV[13] ms when it goes offline unless it comes back
-- Returns 0 where the process was given up before, and its connections with it.
if redis.call('HEXISTS', KEYS[9], ARGV[12]) == 0 then
  return 0
end
disconnect(KEYS[9], ARGV[12], 1, ARGV[13])
return 1
