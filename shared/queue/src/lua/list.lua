-- Lists available jobs in the order of their turn: lane after lane, each with the groups of its rotation and then with those that are
-- parked at their cap, which stand in no rotation. Looks at a bounded number of groups, however many there are.
-- KEYS[1]  prefix
-- ARGV[1]  most ids, and about how many groups to look at
-- ARGV[2]  where to begin: lane from 1   [3] 0 in the rotation, 1 among the parked   [4] cursor of the scan of the parked
-- ARGV[5]  groups to pass over   [6] jobs of the next group to pass over; both from 0
-- ARGV[7]  and on: the lanes, as `prio:kind`
-- returns  {ids, runs, next}: runs tells of every stretch of ids where it begins, in these five numbers, and its length; next is where
--          to go on, in five numbers, or empty at the end
local most = tonumber(ARGV[1])
local lane, part, scan = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local group, offset = tonumber(ARGV[5]), tonumber(ARGV[6])
local ids, runs, looked = {}, {}, 0
local function place() return { lane, part, scan, group, offset } end

local function groups_of(name)
  if part == 0 then return call('LRANGE', P .. 'r:' .. name, group, group + most - 1) end
  local found = call('HSCAN', P .. 'parked', scan, 'COUNT', most)
  local fields, parked, passed = found[2], {}, 0
  for k = 1, #fields, 2 do
    if string.find(',' .. fields[k + 1] .. ',', ',' .. name .. ',', 1, true) then
      passed = passed + 1
      if passed > group then parked[#parked + 1] = fields[k] end
    end
  end
  return parked, found[1]
end

while lane <= #ARGV - 6 do
  local name = ARGV[lane + 6]
  local groups, next_scan = groups_of(name)
  for _, name_of_group in ipairs(groups) do
    local got = call('LRANGE', P .. 'q:' .. name .. ':' .. name_of_group, offset, offset + most - #ids - 1)
    if #got > 0 then
      for _, number in ipairs(place()) do runs[#runs + 1] = number end
      runs[#runs + 1] = #got
      for _, id in ipairs(got) do ids[#ids + 1] = id end
    end
    looked = looked + 1
    if #ids >= most then
      offset = offset + #got
      return { ids, runs, place() }
    end
    group, offset = group + 1, 0
    if looked >= most then return { ids, runs, place() } end
  end
  if part == 0 and #groups < most then
    part, scan, group = 1, '0', 0
  elseif part == 1 then
    scan, group = next_scan, 0
    if scan == '0' then lane, part = lane + 1, 0 end
  end
  offset = 0
  -- So does a lane or a part of the parked without any.
  looked = looked + 1
  if looked >= most and lane <= #ARGV - 6 then return { ids, runs, place() } end
end
return { ids, runs, {} }
