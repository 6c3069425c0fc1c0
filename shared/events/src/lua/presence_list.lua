-- KEYS[1] members   KEYS[2] online   KEYS[3] seen   KEYS[4] status
-- ARGV[1] one member, or '' for those who came last   ARGV[2] how many at most
-- Returns {members online, {member, connections, ms since when online or '', ms last seen or '', status or '', ...}}.
local members
if ARGV[1] ~= '' then
  members = {ARGV[1]}
else
  members = redis.call('ZREVRANGE', KEYS[2], 0, ARGV[2] - 1)
end
local flat = {}
for _, member in ipairs(members) do
  local n = #flat
  flat[n + 1] = member
  flat[n + 2] = redis.call('HGET', KEYS[1], member) or '0'
  flat[n + 3] = redis.call('ZSCORE', KEYS[2], member) or ''
  flat[n + 4] = redis.call('ZSCORE', KEYS[3], member) or ''
  flat[n + 5] = redis.call('HGET', KEYS[4], member) or ''
end
return {redis.call('ZCARD', KEYS[2]), flat}
