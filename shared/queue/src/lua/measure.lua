-- Measured rates of a queue, behind common.lua. A sample is 'ms pushed ended runs run_us waiting', the last five counted since the queue
-- exists but for the jobs that wait then. They are taken by heartbeats, five seconds apart, so that jobs pay nothing but their counters.
local SAMPLES, APART, KEPT = P .. 'samples', 5000, 13

local function totals()
  local s = call('HMGET', P .. 'stat', 'pushed', 'completed', 'dead', 'cancelled', 'failed', 'run_us')
  for k = 1, 6 do s[k] = tonumber(s[k] or 0) end
  local waiting = depth() - call('ZCARD', SCHED) - call('ZCARD', RETRY)
  return { s[1], s[2] + s[3] + s[4], s[2] + s[5], s[6], waiting }
end

local function samples()
  local out = {}
  for n, text in ipairs(call('LRANGE', SAMPLES, 0, KEPT - 1)) do
    local row = {}
    for word in string.gmatch(text, '%S+') do row[#row + 1] = tonumber(word) end
    out[n] = row
  end
  return out
end

-- Ends a second over the last minute, of the times only during which jobs waited: an idle queue says nothing of how fast it could be.
local function measured_rate(rows, now)
  local ended, ms = 0, 0
  for n = 1, #rows - 1 do
    local later, earlier = rows[n], rows[n + 1]
    if now - earlier[1] > WINDOW then break end
    if later[6] > 0 and earlier[6] > 0 then
      ended = ended + later[3] - earlier[3]
      ms = ms + later[1] - earlier[1]
    end
  end
  if ms > 0 then return ended * 1000 / ms end
end

-- Us that a run took, on average over the last minute; nil where none ended.
local function measured_run(rows, now)
  local first = rows[1]
  for n = 2, #rows do
    if now - rows[n][1] <= WINDOW then first = rows[n] end
  end
  local runs = rows[1][4] - first[4]
  if runs > 0 then return (rows[1][5] - first[5]) / runs end
end

local function sample(now)
  local last = call('LINDEX', SAMPLES, 0)
  if last and now - tonumber(string.match(last, '^%d+')) < APART then return end
  local t = totals()
  -- Nor does a paused one.
  if call('HEXISTS', P .. 'cfg', 'paused') == 1 then t[5] = 0 end
  call('LPUSH', SAMPLES, string.format('%d %d %d %d %d %d', now, t[1], t[2], t[3], t[4], t[5]))
  call('LTRIM', SAMPLES, 0, KEPT - 1)
  local rows = samples()
  local rate, run = measured_rate(rows, now), measured_run(rows, now)
  if rate then
    call('HSET', P .. 'stat', 'drain', string.format('%.3f', rate), 'drain_at', now)
  else
    call('HDEL', P .. 'stat', 'drain', 'drain_at')
  end
  -- Kept until another is known: jobs may take longer than any window.
  if run then call('HSET', P .. 'stat', 'mean_us', string.format('%.0f', run)) end
  -- The count of bytes is kept by difference; where nothing waits it is known.
  if depth() == 0 then call('HDEL', P .. 'stat', 'bytes') end
end
