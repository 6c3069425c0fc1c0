-- KEYS[1] meta hash of the channel   KEYS[2] its stream
-- ARGV[1] channel   ARGV[2] payload   ARGV[3] epoch to begin where there is none   ARGV[4] nonce of this call
-- ARGV[5] history length   ARGV[6] history ms   ARGV[7] ms the meta hash outlives the last publication   ARGV[8] hash of the readers' cursors
-- Returns {epoch, offset}.
local seen = redis.call('HMGET', KEYS[1], 'n', 'e')
local effect = effect_of(seen[1], ARGV[4])
if effect then
  return {seen[2], effect}
end
local epoch = open_epoch(KEYS[1], KEYS[2], ARGV[3])
local offset = append(KEYS[1], KEYS[2], ARGV[1], epoch, ARGV[2], ARGV[5], ARGV[6])
remember(KEYS[1], seen[1], ARGV[4], offset)
-- Whoever forgot how far a reader has come, and not the events, would have them all delivered again. Where there is no cursor, nothing happens.
-- It is no key of the step: few channels have it, and in a cluster a slot on the move has steps wait for keys that are missing.
redis.pcall('PEXPIRE', ARGV[8], ARGV[6], 'GT')
-- A document decides for itself how long it lives.
if redis.call('HEXISTS', KEYS[1], 'b') == 0 then
  keep_at_least(KEYS[1], ARGV[7])
end
return {epoch, offset}
