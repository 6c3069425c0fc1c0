-- Shared by the presence scripts, behind channel.lua. All keys carry the hash tag of the channel on which changes are told.
-- KEYS[1] members: hash of connections by member        KEYS[2] online: sorted set of members by ms since when
-- KEYS[3] leaving: sorted set by ms when they go offline KEYS[4] seen: sorted set by ms of the last sign of life
-- KEYS[5] nodes: sorted set of processes by ms when their lease ends
-- KEYS[6] status: hash of `1<text>`, or `0<text>` for members who hide
-- KEYS[7] meta hash and KEYS[8] stream of the channel    KEYS[9] hash of connections by member of one process
-- ARGV[1] now ms   ARGV[2] channel   ARGV[3] epoch to begin where there is none   ARGV[4] history length   ARGV[5] history ms
-- ARGV[6] meta ms  ARGV[7] members online above which changes are not told any more
-- ARGV[8], [9] what stands before and after a member in the event `online`, ARGV[10], [11] the same for `offline`

local function tell(member, before, after)
  if redis.call('ZCARD', KEYS[2]) <= tonumber(ARGV[7]) then
    local epoch = open_epoch(KEYS[7], KEYS[8], ARGV[3])
    append(KEYS[7], KEYS[8], ARGV[2], epoch, before .. member .. after, ARGV[4], ARGV[5])
    redis.call('PEXPIRE', KEYS[7], ARGV[6])
  end
end

local function hides(member)
  local status = redis.call('HGET', KEYS[6], member)
  return status and string.sub(status, 1, 1) == '0'
end

local function come_online(member)
  if redis.call('ZADD', KEYS[2], 'NX', ARGV[1], member) == 1 then
    tell(member, ARGV[8], ARGV[9])
    return 1
  end
  return 0
end

local function go_offline(member)
  if redis.call('ZREM', KEYS[2], member) == 1 then
    tell(member, ARGV[10], ARGV[11])
  end
end

-- Takes away `count` connections of a process; a member without any goes offline at `due`, unless it comes back.
local function disconnect(node_key, member, count, due)
  if redis.call('HINCRBY', node_key, member, -count) <= 0 then
    redis.call('HDEL', node_key, member)
  end
  if redis.call('HINCRBY', KEYS[1], member, -count) <= 0 then
    redis.call('HDEL', KEYS[1], member)
    redis.call('ZADD', KEYS[3], due, member)
  end
  redis.call('ZADD', KEYS[4], ARGV[1], member)
end
