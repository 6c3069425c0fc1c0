-- KEYS[1] hash of the channel's cursors
-- ARGV[1] cursor   ARGV[2] epoch   ARGV[3] offset   ARGV[4] ms the hash lives from now
-- Moves a reader's place forward; within an epoch never back.
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known then
  local epoch, offset = string.match(known, '^(%w*):(%d+)$')
  if epoch == ARGV[2] and tonumber(offset) >= tonumber(ARGV[3]) then
    return 0
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ':' .. ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
