-- KEYS[1] meta hash of the channel   KEYS[2] its stream
-- ARGV[1] first offset wanted, '' = the latest ones   ARGV[2] how many at most
-- Returns {epoch, offset, first retained offset or '', {offset, payload, offset, payload, ...}}.
local meta = redis.call('HMGET', KEYS[1], 'e', 'o')
local entries
if ARGV[1] == '' then
  local latest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', ARGV[2])
  entries = {}
  for i = #latest, 1, -1 do
    entries[#entries + 1] = latest[i]
  end
else
  entries = redis.call('XRANGE', KEYS[2], ARGV[1] .. '-0', '+', 'COUNT', ARGV[2])
end
local flat = {}
for _, entry in ipairs(entries) do
  flat[#flat + 1] = string.match(entry[1], '^(%d+)')
  flat[#flat + 1] = entry[2][2]
end
local first = ''
local head = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)
if head[1] then
  first = string.match(head[1][1], '^(%d+)')
end
return {meta[1] or '', meta[2] or '0', first, flat}
