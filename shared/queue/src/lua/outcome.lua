-- How jobs ended.
-- KEYS[1]  prefix
-- ARGV[1]  1 to be told on the channel `ev` when those that have not ended do   [2..] ids (at most 200)
-- returns  per id: {state, result or false, error or false, attempts}; state: c completed, x cancelled, d dead, w not ended, g gone
local out = {}
for n = 2, #ARGV do
  local id = ARGV[n]
  local rec = call('HGET', JOBS, id)
  local state, attempts = 'w', 0
  local result = call('GET', P .. 'res:' .. id)
  if rec then
    local mark = sub(rec, 1, 1)
    attempts = head(rec).attempts
    if mark == 'd' or mark == 'x' then
      state = mark
    elseif call('ZSCORE', DONE, id) then
      state = 'c'
      attempts = attempts + 1
    end
  else
    state = result and 'c' or 'g'
  end
  if state == 'w' and ARGV[1] == '1' then
    call('HSET', P .. 'waiters', id, 1)
    call('EXPIRE', P .. 'waiters', 3600)
  end
  out[n - 1] = { state, result, call('HGET', P .. 'err', id), attempts }
end
return out
