-- ARGV[12] member   ARGV[13] status: `1<text>`, or `0<text>` to hide
-- Returns 1 where the member has connections.
local member = ARGV[12]
if redis.call('HEXISTS', KEYS[1], member) == 0 then
  return 0
end
redis.call('HSET', KEYS[6], member, ARGV[13])
if hides(member) then
  go_offline(member)
else
  come_online(member)
end
return 1
