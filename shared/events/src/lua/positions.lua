-- KEYS meta hashes of channels
-- Returns {number of the key, epoch, offset, ...}, three for each channel that holds a position; most of a user's own never stored anything.
-- A key that cannot be read has an empty epoch, and keeps no other from being read.
local found = {}
for number, key in ipairs(KEYS) do
  local meta = redis.pcall('HMGET', key, 'e', 'o')
  if meta.err or meta[1] then
    found[#found + 1] = number
    found[#found + 1] = meta[1] or ''
    found[#found + 1] = meta[2] or '0'
  end
end
return found
