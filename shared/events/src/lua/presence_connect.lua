-- ARGV[12] member   ARGV[13] process   ARGV[14] ms when its lease ends   ARGV[15] connections that came
-- ARGV[16] '1': ARGV[15] is how many there are instead   ARGV[17] ms when a member without any goes offline
-- ARGV[18] what the member said of itself, as the hash holds it; '' where there is nothing to put back
-- Returns {1 where the member came online, connections of the member, members online, epoch and offset of the channel by then}.
local member = ARGV[12]
redis.call('ZADD', KEYS[5], 'GT', ARGV[14], ARGV[13])
local change = tonumber(ARGV[15])
if ARGV[16] == '1' then
  change = change - tonumber(redis.call('HGET', KEYS[9], member) or 0)
end
local came = 0
if ARGV[18] ~= '' and change >= 0 then
  redis.call('HSETNX', KEYS[6], member, ARGV[18])
  if hides(member) then
    go_offline(member)
  end
end
if change < 0 then
  disconnect(KEYS[9], member, -change, ARGV[17])
elseif change > 0 then
  redis.call('HINCRBY', KEYS[9], member, change)
  redis.call('HINCRBY', KEYS[1], member, change)
  redis.call('ZREM', KEYS[3], member)
  redis.call('ZADD', KEYS[4], ARGV[1], member)
  if not hides(member) then
    came = come_online(member)
  end
end
local place = redis.call('HMGET', KEYS[7], 'e', 'o')
return {
  came, tonumber(redis.call('HGET', KEYS[1], member) or 0), redis.call('ZCARD', KEYS[2]), place[1] or '', place[2] or '0',
}
