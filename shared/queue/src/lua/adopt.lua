-- Moves jobs that a stock apalis-redis storage stored into this queue, one bounded part in one step.
-- KEYS[1]  prefix
-- ARGV[1]  the stock queue's name   [2] kind that the jobs get   [3] most jobs to move
-- returns  how many were moved; call again until it is 0. The stock keys are not in this queue's slot, so this needs a Redis
--          that is no cluster, which is all that the stock storage itself supports.
local S, kind, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
local now = clock()
local DATA, META = S .. ':data', S .. ':meta'

local ALPHABET = '0123456789ABCDEFGHJKMNPQRSTVWXYZ'
-- 26 characters of 5 bits, the first of which carries 3: 16 bytes. Other ids are hashed, so that they stay the same.
local function binary_id(text)
  if #text ~= 26 then return nil end
  local out, acc, bits = {}, 0, 0
  for k = 1, 26 do
    local at = string.find(ALPHABET, string.upper(sub(text, k, k)), 1, true)
    if not at or (k == 1 and at > 8) then return nil end
    local width = k == 1 and 3 or 5
    acc = acc * (k == 1 and 8 or 32) + at - 1
    bits = bits + width
    if bits >= 8 then
      bits = bits - 8
      local unit = 2 ^ bits
      out[#out + 1] = string.char(floor(acc / unit))
      acc = acc % unit
    end
  end
  return table.concat(out)
end
local function hashed_id(text)
  return (string.gsub(sub(redis.sha1hex(text), 1, 32), '..', function(hex) return string.char(tonumber(hex, 16)) end))
end

local NOT_META = { attempts = 1, max_attempts = 1, status = 1, idempotency_key = 1, locked_at = 1, locked_by = 1, result = 1, done_at = 1 }
local moved = 0
local function adopt(text, at)
  local data = call('HGET', DATA, text)
  if not data then return end
  local fields = call('HGETALL', META .. ':' .. text)
  local known, meta, has_meta = {}, {}, false
  for k = 1, #fields, 2 do
    known[fields[k]] = fields[k + 1]
    if not NOT_META[fields[k]] then
      meta[fields[k]] = fields[k + 1]
      has_meta = true
    end
  end
  local id = binary_id(text) or hashed_id(text)
  local unique = known.idempotency_key or ''
  if #unique > 255 then unique = '' end
  local max = min(tonumber(known.max_attempts) or 25, 65535)
  local attempts = min(tonumber(known.attempts) or 0, 65535)
  if attempts >= max then max = min(attempts + 1, 65535) end
  local json = has_meta and cjson.encode(meta) or ''
  local rec = 'an' .. struct.pack('>HBHBBBI4H', attempts, 0, max, #kind, 0, #unique, 0, #json) .. kind .. unique .. json .. data
  if call('HSETNX', JOBS, id, rec) == 1 then
    weigh(#rec)
    call('HINCRBY', P .. 'stat', 'pushed', 1)
    if unique ~= '' then call('SET', P .. 'u:' .. unique, id) end
    if at > now then call('ZADD', SCHED, at, id) else ready({ id }, 'n', kind, '', false) end
  end
  call('HDEL', DATA, text)
  call('DEL', META .. ':' .. text)
  moved = moved + 1
end

local taken = 0
local function room() return limit - taken end
-- Jobs that a stopped worker held.
for _, worker in ipairs(call('ZRANGE', S .. ':workers', 0, 999)) do
  if room() <= 0 then break end
  for _, text in ipairs(call('SPOP', S .. ':inflight:' .. worker, room())) do
    taken = taken + 1
    adopt(text, 0)
  end
end
if room() > 0 then
  for _, text in ipairs(call('LPOP', S .. ':active', room()) or {}) do
    taken = taken + 1
    adopt(text, 0)
  end
end
if room() > 0 then
  local rows = call('ZPOPMIN', S .. ':scheduled', room())
  for k = 1, #rows, 2 do
    taken = taken + 1
    adopt(rows[k], tonumber(rows[k + 1]) * 1000)
  end
end
return { taken, moved }
