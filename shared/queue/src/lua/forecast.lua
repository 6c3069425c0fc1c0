-- What the measured rates say.
-- KEYS[1]  prefix
-- returns  {ms measured, pushed, ended, runs, their us} of that time, jobs that wait, ended a second while jobs waited as text or ''
local now = clock()
local rows, t = samples(), totals()
local since
for n = #rows, 1, -1 do
  -- The oldest of the last minute, or the newest where no worker took one for longer.
  if not since and (now - rows[n][1] <= 65000 or n == 1) then since = rows[n] end
end
local due = t[5] + call('ZCOUNT', SCHED, '-inf', now) + call('ZCOUNT', RETRY, '-inf', now)
if not since then return { 0, 0, 0, 0, 0, due, '' } end
return {
  now - since[1], t[1] - since[2], t[2] - since[3], t[3] - since[4], t[4] - since[5], due,
  call('HGET', P .. 'stat', 'drain') or '',
}
