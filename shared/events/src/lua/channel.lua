-- Shared by every script that writes to a channel; put in front of it when the script is built, behind `PUBLISH`, the command to publish with.
-- A channel is two keys in one slot: `meta`, a hash {e: epoch, o: offset, n: the last calls, r: revision, b: body},
-- and `stream`, the retained publications with ids `<offset>-0` and one field `d`.

-- The client repeats calls whose answers were cut off, and may have had many under way. So a channel remembers which took effect of late, newest
-- first, as `<s of the newest, ten digits>|<nonce>=<offset>;...`: those that followed each other within a minute, some 30 of them.
local CALLS_S, CALLS_BYTES = 60, 600

-- The offset that the call with this nonce was given, '' for a call that published nothing; nil where it is not known.
local function effect_of(calls, nonce)
  local _, at = string.find(calls or '', nonce .. '=', 1, true)
  return at and string.match(calls, '^(%d*);', at + 1)
end

local function remember(meta, calls, nonce, offset)
  local now = redis.call('TIME')[1]
  local at = calls and tonumber(string.sub(calls, 1, 10))
  -- One that is cut in two is found no more.
  local earlier = at and now - at < CALLS_S and string.sub(calls, 12, CALLS_BYTES) or ''
  redis.call('HSET', meta, 'n', now .. '|' .. nonce .. '=' .. offset .. ';' .. earlier)
end

-- Returns the channel's epoch, beginning a new one where the channel is unknown. A stream left from an older epoch goes:
-- its offsets would collide with the new ones.
local function open_epoch(meta, stream, fresh)
  local epoch = redis.call('HGET', meta, 'e')
  if epoch then
    return epoch
  end
  redis.call('HSET', meta, 'e', fresh)
  redis.call('DEL', stream)
  return fresh
end

-- Has a key live for so long from now on at least: never shorter than something earlier, which may be kept longer than most, has it.
-- A new key has no time set, which counts as for ever.
local function keep_at_least(key, ms)
  if redis.call('PEXPIRE', key, ms, 'GT') == 0 then
    redis.call('PEXPIRE', key, ms, 'NX')
  end
end

-- Appends one payload, publishes the same bytes with their position in front, and returns the offset as a string.
local function append(meta, stream, channel, epoch, payload, history_len, history_ms)
  local offset = string.format('%d', redis.call('HINCRBY', meta, 'o', 1))
  redis.call('XADD', stream, 'MAXLEN', '~', history_len, offset .. '-0', 'd', payload)
  keep_at_least(stream, history_ms)
  redis.call(PUBLISH, channel, '#' .. epoch .. ':' .. offset .. '\n' .. payload)
  return offset
end
