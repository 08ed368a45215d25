-- The top lists. Readers see <list>, a sorted set of members and their live sums. Firn's own, named by `own` .. list:
--   :sums     hash, member -> live sum over all buckets; no zeros
--   :buckets  sorted set, the starts of the live buckets (ms)
--   :<start>  hash, member -> sum of one bucket
-- and for all lists of a sink `due` (list -> when it needs a hand) and `lists` (list -> window bucket ttl, in ms).
-- The sums live at least as long as the list, the buckets always longer than the sums: so where there are no sums, nothing that
-- they counted is live.

local function clock()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

-- A number as the integer that Redis wants.
local function whole(n)
  return string.format('%.0f', n)
end

-- Lua takes some 8,000 values at once.
local AT_ONCE = 4000

-- Adds to fields of a hash; answers the sums. One command for many: each costs Redis a place in its log.
local function raise(key, amounts)
  local sums, names = {}, {}
  local function flush()
    if #names == 0 then return end
    local have, set = redis.call('HMGET', key, unpack(names)), {}
    for i, name in ipairs(names) do
      sums[name] = (have[i] or 0) + amounts[name]
      set[2 * i - 1], set[2 * i] = name, whole(sums[name])
    end
    redis.call('HSET', key, unpack(set))
    names = {}
  end
  for name in pairs(amounts) do
    names[#names + 1] = name
    if #names == AT_ONCE / 2 then flush() end
  end
  flush()
  return sums
end

-- Runs a command on many arguments.
local function each(command, key, arguments)
  for i = 1, #arguments, AT_ONCE do
    redis.call(command, key, unpack(arguments, i, math.min(i + AT_ONCE - 1, #arguments)))
  end
end

-- Moves members' live sums, and their places in the list.
local function add(own, list, amounts)
  local up, down, zero = {}, {}, {}
  for member, sum in pairs(raise(own .. list .. ':sums', amounts)) do
    if sum > 0 then
      up[#up + 1] = whole(sum)
      up[#up + 1] = member
    else
      down[#down + 1] = member
      if sum == 0 then zero[#zero + 1] = member end
    end
  end
  each('ZADD', list, up)
  each('ZREM', list, down)
  each('HDEL', own .. list .. ':sums', zero)
end

-- Takes out the buckets that have left the window. The members left of `budget`, nil where it did not suffice.
local function prune(own, list, window, bucket, now, budget)
  local index = own .. list .. ':buckets'
  for _, start in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', whole(now - window - bucket))) do
    local key, cursor = own .. list .. ':' .. start, '0'
    repeat
      local page = redis.call('HSCAN', key, cursor, 'COUNT', 500)
      cursor = page[1]
      -- A page may have a member twice.
      local amounts, members = {}, {}
      for i = 1, #page[2], 2 do
        local member = page[2][i]
        if not amounts[member] then members[#members + 1] = member end
        amounts[member] = -page[2][i + 1]
      end
      each('HDEL', key, members)
      add(own, list, amounts)
      budget = budget - #members
      if budget <= 0 and cursor ~= '0' then return nil end
    until cursor == '0'
    redis.call('ZREM', index, start)
    if budget <= 0 then return nil end
  end
  return budget
end

-- Makes the list what its sums say, should it have gone, and empties it where there are none.
local function mend(own, list)
  local sums = own .. list .. ':sums'
  if redis.call('EXISTS', sums) == 0 then
    redis.call('UNLINK', list)
  elseif redis.call('EXISTS', list) == 0 then
    local all = redis.call('HGETALL', sums)
    for i = 1, #all, 2 do
      if tonumber(all[i + 1]) > 0 then redis.call('ZADD', list, all[i + 1], all[i]) end
    end
  end
end

-- How long the sums stay when nobody touches the list.
local function lifetime(window, bucket, ttl)
  return math.max(ttl, window + bucket) + bucket
end

-- Lets everything of a list live on, and says when it needs a hand again.
local function touch(own, due, lists, longest, list, window, bucket, ttl, now)
  local sums, index = own .. list .. ':sums', own .. list .. ':buckets'
  local first = redis.call('ZRANGE', index, 0, 0)[1]
  if first then
    local stay = whole(lifetime(window, bucket, ttl))
    redis.call('PEXPIRE', list, whole(ttl))
    redis.call('PEXPIRE', sums, stay)
    redis.call('PEXPIRE', index, stay)
    redis.call('ZADD', due, whole(math.min(first + bucket + window, now + ttl / 3)), list)
    redis.call('HSET', lists, list, whole(window) .. ' ' .. whole(bucket) .. ' ' .. whole(ttl))
    redis.call('PEXPIRE', due, longest)
    redis.call('PEXPIRE', lists, longest)
  else
    redis.call('UNLINK', list, sums)
    redis.call('ZREM', due, list)
    redis.call('HDEL', lists, list)
  end
end
