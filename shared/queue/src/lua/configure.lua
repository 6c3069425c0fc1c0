-- Sets or clears fields of a queue's live settings, and wakes workers, because the change may let them work.
-- KEYS[1]  prefix
-- ARGV     field, value pairs; an empty value clears the field
-- returns  1
insist()
for k = 1, #ARGV, 2 do
  if ARGV[k + 1] == '' then call('HDEL', P .. 'cfg', ARGV[k]) else call('HSET', P .. 'cfg', ARGV[k], ARGV[k + 1]) end
end
-- Groups parked at the old cap look at the new one; what is beyond these does when one of its jobs ends.
for _, group in ipairs(call('HRANDFIELD', P .. 'parked', 500)) do unpark(group) end
for _, kind in ipairs(call('SRANDMEMBER', P .. 'kinds', 1000)) do wake(kind) end
return 1
