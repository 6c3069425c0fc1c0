-- After a call whose answer was lost: bars what may still be on its way, and tells which jobs this worker holds.
-- KEYS[1]  prefix
-- ARGV[1]  worker number   [2] first token not yet given out   [3] token to list from   [4] most jobs to list
-- returns  {status, ids, tokens}; status 1: this worker number is not registered
local me = P .. 'w:' .. ARGV[1]
local used = call('HGET', me, 'f')
if not used or used == 'x' then return { 1, {}, {} } end
if tonumber(used) < tonumber(ARGV[2]) then
  insist()
  call('HSET', me, 'f', ARGV[2])
end
local last = (tonumber(ARGV[1]) + 1) * 268435456 - 1
local rows = call('ZRANGEBYSCORE', LEASE, ARGV[3], last, 'WITHSCORES', 'LIMIT', 0, ARGV[4])
local ids, tokens = {}, {}
for k = 1, #rows, 2 do
  ids[#ids + 1] = rows[k]
  tokens[#tokens + 1] = rows[k + 1]
end
return { 0, ids, tokens }
