-- ARGV[12] process   ARGV[13] ms when its lease ends from now on   ARGV[14] how much to do at most   ARGV[15] ms before which `seen` is forgotten
-- ARGV[16] what stands before a process in the name of its hash
-- Returns {1 where the process still had its lease, 1 where more is to be done}.
local alive = redis.call('ZSCORE', KEYS[5], ARGV[12])
redis.call('ZADD', KEYS[5], ARGV[13], ARGV[12])
local limit = tonumber(ARGV[14])
local more = 0
-- One dead process at a time, a part of its connections at a time.
local dead = redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', ARGV[1], 'LIMIT', 0, 1)[1]
if dead then
  local node_key = ARGV[16] .. dead
  local fields = redis.call('HSCAN', node_key, 0, 'COUNT', limit)[2]
  for i = 1, #fields, 2 do
    -- The lease was grace enough.
    disconnect(node_key, fields[i], fields[i + 1], ARGV[1])
  end
  if redis.call('EXISTS', node_key) == 0 then
    redis.call('ZREM', KEYS[5], dead)
  end
  more = 1
end
local leaving = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', ARGV[1], 'LIMIT', 0, limit)
for _, member in ipairs(leaving) do
  redis.call('ZREM', KEYS[3], member)
  if redis.call('HEXISTS', KEYS[1], member) == 0 then
    redis.call('HDEL', KEYS[6], member)
    go_offline(member)
  end
end
if #leaving == limit then
  more = 1
end
local old = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', ARGV[15], 'LIMIT', 0, limit)
if #old > 0 then
  for _, member in ipairs(old) do
    redis.call('ZREM', KEYS[4], member)
  end
end
return {alive and 1 or 0, more}
