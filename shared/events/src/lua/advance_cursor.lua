-- KEYS[1] hash of the channel's cursors   KEYS[2] the channel's stream
-- ARGV[1] cursor   ARGV[2] epoch   ARGV[3] offset   ARGV[4] ms the hash lives from now, and as long as the stream in any case
-- Moves a reader's place forward; within an epoch never back.
local known = redis.call('HGET', KEYS[1], ARGV[1])
local epoch, offset = string.match(known or '', '^(%w*):(%d+)$')
local moves = epoch ~= ARGV[2] or tonumber(offset) < tonumber(ARGV[3])
if moves then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ':' .. ARGV[3])
end
keep_at_least(KEYS[1], ARGV[4])
local stream_ms = redis.call('PTTL', KEYS[2])
if stream_ms > 0 then
  keep_at_least(KEYS[1], stream_ms)
end
return moves and 1 or 0
