-- What the measured rates say.
-- KEYS[1]  prefix
-- returns  {ms measured, pushed, ended, runs, their us} of that time, jobs that wait, ended a second while jobs waited as text or '',
--           jobs that run, us of a run when one was last measured or '', 1 when paused, most that start a second or ''
local now = clock()
local rows, t = samples(), totals()
local since
for n = #rows, 1, -1 do
  -- The oldest of the last minute, or the newest where no worker took one for longer.
  if not since and (now - rows[n][1] <= WINDOW or n == 1) then since = rows[n] end
end
since = since or { now, t[1], t[2], t[3], t[4] }
local due = t[5] + call('ZCOUNT', SCHED, '-inf', now) + call('ZCOUNT', RETRY, '-inf', now)
local rate = drain_rate(now)
return {
  now - since[1], t[1] - since[2], t[2] - since[3], t[3] - since[4], t[4] - since[5], due,
  rate and string.format('%.3f', rate) or '',
  call('ZCARD', LEASE), call('HGET', P .. 'stat', 'mean_us') or '',
  call('HEXISTS', P .. 'cfg', 'paused'), call('HGET', P .. 'cfg', 'rate') or '',
}
