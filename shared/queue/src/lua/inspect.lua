-- Reads jobs with all that is known of them.
-- KEYS[1]  prefix
-- ARGV     ids (at most 200)
-- returns  per id: false, or {state, record, error, progress, result, score}; state as in `State`; score: due ms, finished ms or token
local out = {}
for n, id in ipairs(ARGV) do
  local rec = call('HGET', JOBS, id)
  if not rec then
    out[n] = false
  else
    local state, score = 'available', false
    local mark = sub(rec, 1, 1)
    if mark == 'd' then
      state, score = 'dead', call('ZSCORE', DEAD, id)
    elseif mark == 'x' then
      state, score = 'cancelled', call('ZSCORE', CANCELLED, id)
    else
      for _, place in ipairs({ { LEASE, 'running' }, { SCHED, 'scheduled' }, { RETRY, 'retryable' }, { DONE, 'completed' } }) do
        score = call('ZSCORE', place[1], id)
        if score then
          state = place[2]
          break
        end
      end
    end
    out[n] = { state, rec, call('HGET', P .. 'err', id), call('HGET', P .. 'prog', id), call('GET', P .. 'res:' .. id), score }
  end
end
return out
