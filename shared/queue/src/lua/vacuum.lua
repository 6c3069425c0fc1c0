-- Removes finished jobs in one bounded part; call again until it removes none.
-- KEYS[1]  prefix
-- ARGV[1]  only those that ended this many ms ago or longer   [2] most jobs of each state
-- returns  how many were removed
local now = clock()
local n = 0
for _, z in ipairs({ DONE, CANCELLED, DEAD }) do
  n = n + trim(z, now, tonumber(ARGV[1]), 9007199254740991, tonumber(ARGV[2]))
end
return n
