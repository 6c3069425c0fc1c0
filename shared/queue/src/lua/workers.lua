-- The workers of a queue.
-- KEYS[1]  prefix
-- ARGV[1]  most workers to tell
-- returns  now in ms, then for each: number, end of its lease in ms, description (JSON), last sign of life in ms
local out = { clock() }
local rows = call('ZRANGE', P .. 'workers', 0, tonumber(ARGV[1]) - 1, 'WITHSCORES')
for k = 1, #rows, 2 do
  local w = call('HMGET', P .. 'w:' .. rows[k], 'info', 'beat')
  out[#out + 1] = { tonumber(rows[k]), tonumber(rows[k + 1]), w[1] or '', tonumber(w[2] or 0) }
end
return out
