-- Sets or clears fields of a queue's live settings, and wakes workers, because the change may let them work.
-- KEYS[1]  prefix
-- ARGV     field, value pairs; an empty value clears the field
-- returns  1
for k = 1, #ARGV, 2 do
  if ARGV[k + 1] == '' then call('HDEL', P .. 'cfg', ARGV[k]) else call('HSET', P .. 'cfg', ARGV[k], ARGV[k + 1]) end
end
-- A group parked at its cap has running jobs, and the end of each of them looks at the cap again.
for _, kind in ipairs(call('SRANDMEMBER', P .. 'kinds', 1000)) do wake(kind) end
return 1
