-- Shared by every script that writes to a channel; put in front of it when the script is built, behind `PUBLISH`, the command to publish with.
-- A channel is two keys in one slot: `meta`, a hash {e: epoch, o: offset, n: nonce of the last writer, r: revision, b: body},
-- and `stream`, the retained publications with ids `<offset>-0` and one field `d`.

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

-- Appends one payload, publishes the same bytes with their position in front, and returns the offset as a string.
local function append(meta, stream, channel, epoch, payload, history_len, history_ms)
  local offset = string.format('%d', redis.call('HINCRBY', meta, 'o', 1))
  redis.call('XADD', stream, 'MAXLEN', '~', history_len, offset .. '-0', 'd', payload)
  -- Never sooner than an earlier event, which may be kept longer than most, has it. The first event finds no time set, which counts as for ever.
  if redis.call('PEXPIRE', stream, history_ms, 'GT') == 0 then
    redis.call('PEXPIRE', stream, history_ms, 'NX')
  end
  redis.call(PUBLISH, channel, '#' .. epoch .. ':' .. offset .. '\n' .. payload)
  return offset
end
