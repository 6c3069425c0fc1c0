-- A worker ends in good order: what it still holds goes back without spending an attempt.
-- KEYS[1]  prefix
-- ARGV[1]  worker number   [2] most jobs to return
-- returns  how many jobs were returned; call again until it is 0
local low = tonumber(ARGV[1]) * 268435456
-- The last claimed goes back first, so that they stand as they stood.
local ids = call('ZREVRANGEBYSCORE', LEASE, low + 268435455, low, 'LIMIT', 0, ARGV[2])
insist()
call('HSET', P .. 'w:' .. ARGV[1], 'f', 'x')
if #ids == 0 then
  call('DEL', P .. 'w:' .. ARGV[1], P .. 'ctl:' .. ARGV[1])
  call('ZREM', P .. 'workers', ARGV[1])
  return 0
end
local recs = call('HMGET', JOBS, unpack(ids))
call('ZREM', LEASE, unpack(ids))
uncount(ids)
local now, back = clock(), 0
for k, id in ipairs(ids) do
  if recs[k] then
    local h = head(recs[k])
    if call('SISMEMBER', P .. 'cancels', id) == 1 then
      cancelled(id, recs[k], h, now)
    else
      back = back + #recs[k]
      ready({ id }, h.prio, h.kind, h.group, true)
    end
  end
end
weigh(back)
return #ids
