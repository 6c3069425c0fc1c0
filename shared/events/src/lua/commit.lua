-- KEYS[1] meta hash of the channel   KEYS[2] its stream
-- ARGV[1] channel   ARGV[2] expected revision, '' = the document must not exist   ARGV[3] nonce of this call
-- ARGV[4] '1' = ARGV[5] is the new body, '0' = delete   ARGV[6] '1' = ARGV[7] is the event to publish
-- ARGV[8] epoch to begin where there is none   ARGV[9] history length   ARGV[10] history ms
-- ARGV[11] ms the meta hash outlives the last publication once there is no document   ARGV[12] ms the document lives, '0' = for ever
-- Returns {1, revision, epoch, offset} ('' and '' where nothing was published), or {0, current revision or ''} on a conflict.
local seen = redis.call('HMGET', KEYS[1], 'n', 'r', 'e', 'o')
-- With another writer's call behind it, it is a conflict like any other: the caller looks again.
if seen[1] and string.match(seen[1], '^%d+|' .. ARGV[3] .. '=') then
  if ARGV[6] == '1' then
    return {1, seen[2], seen[3], seen[4]}
  end
  return {1, seen[2], '', ''}
end
local exists = redis.call('HEXISTS', KEYS[1], 'b') == 1
local current = ''
if exists then
  current = seen[2]
end
if current ~= ARGV[2] then
  return {0, current}
end
local epoch = open_epoch(KEYS[1], KEYS[2], ARGV[8])
local revision = string.format('%d', redis.call('HINCRBY', KEYS[1], 'r', 1))
if ARGV[4] == '1' then
  redis.call('HSET', KEYS[1], 'b', ARGV[5])
else
  redis.call('HDEL', KEYS[1], 'b')
end
local offset = ''
if ARGV[6] == '1' then
  offset = append(KEYS[1], KEYS[2], ARGV[1], epoch, ARGV[7], ARGV[9], ARGV[10])
else
  epoch = ''
end
remember(KEYS[1], seen[1], ARGV[3], offset)
if ARGV[4] == '0' then
  redis.call('PEXPIRE', KEYS[1], ARGV[11])
elseif ARGV[12] == '0' then
  redis.call('PERSIST', KEYS[1])
else
  redis.call('PEXPIRE', KEYS[1], ARGV[12])
end
return {1, revision, epoch, offset}
