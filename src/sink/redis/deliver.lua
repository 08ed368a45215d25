-- One delivery, or a part of one: compares the position, checks every key, then writes and moves the position.
-- KEYS: positions, due, lists; then the keys to write.
-- ARGV: 1 field, 2 epoch, 3 from, 4 to, 5 topic id or '-', 6 'first', 'write' or 'check', 7 own, 8 longest, 9 budget; then of each key its
-- tag, the number of its arguments, and these.
-- Answers {'done'} | {'moved', why} | {'anew', topic id} | {'refused', key number, why, ...} | {'again'}

local function in_parts(command, key, first, last)
  for i = first, last, AT_ONCE do
    redis.call(command, key, unpack(ARGV, i, math.min(i + AT_ONCE - 1, last)))
  end
end

local function moved()
  local have = redis.call('HGET', KEYS[1], ARGV[1])
  if not have then return nil, {'moved', 'nothing is stored of it: Redis lost it, or it was never taken over'} end
  local next, epoch, generation, topic = have:match('^(%S+) (%S+) (%S+) (%S+)$')
  if not next then return nil, {'moved', 'what is stored of it can not be read: ' .. have} end
  if tonumber(epoch) > tonumber(ARGV[2]) then return nil, {'moved', 'another process took it over'} end
  if next == '-' and ARGV[6] ~= 'first' then return nil, {'moved', 'Redis lost what was delivered since it was taken over'} end
  if next ~= '-' and next ~= ARGV[3] then
    return nil, {'moved', 'Redis stands at offset ' .. next .. ', the delivery begins at ' .. ARGV[3]}
  end
  if topic ~= '-' and ARGV[5] ~= '-' and topic ~= ARGV[5] then return nil, {'anew', topic} end
  return {generation, ARGV[5] ~= '-' and ARGV[5] or topic}
end

local TYPES = {s = 'stream', h = 'hash', z = 'zset', t = 'string', T = 'zset'}

-- Whether what is there can take a whole number on top.
local function counts(value)
  return value == '0' or (value:match('^%-?[1-9]%d*$') and #value <= 18)
end

-- Why a key can not be written; of a hash that is counted up, what its fields hold.
local function check(key, tag, p)
  if tag == 'h' and ARGV[p] == '0' and ARGV[p + 2] ~= '0' then
    local fields = {}
    for i = 1, tonumber(ARGV[p + 2]) do fields[i] = ARGV[p + 2 + 2 * i] end
    -- A key of another type tells so by itself, below.
    local held = redis.pcall('HMGET', key, unpack(fields))
    if not held.err then
      for i, value in ipairs(held) do
        if value and not counts(value) then
          return 'its field ' .. fields[i] .. ' holds ' .. value:sub(1, 40) .. ', which can not be counted on'
        end
      end
      return nil, held
    end
  end
  local kind = redis.call('TYPE', key).ok
  if kind == 'none' then return nil end
  if kind ~= TYPES[tag] then return 'it holds a ' .. kind .. ', not a ' .. TYPES[tag] end
  if tag == 's' then
    local info = redis.call('XINFO', 'STREAM', key)
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' and info[i + 1]:match('^18446744073709551615%-') then
        return 'its last id is the greatest there is'
      end
    end
  end
  return nil
end

local write = {}

function write.s(key, p, last)
  local trim, amount = ARGV[p], ARGV[p + 1]
  p = p + 2
  while p <= last do
    local n = tonumber(ARGV[p])
    redis.call('XADD', key, '*', unpack(ARGV, p + 1, p + n))
    p = p + n + 1
  end
  if trim == 'MINID' then amount = whole(math.max(clock() - amount, 0)) end
  if trim ~= '-' then redis.call('XTRIM', key, trim, '~', amount) end
end

-- Doubles count exactly up to here.
local EXACT = 9e15

local function exact(n)
  return n <= EXACT and n >= -EXACT
end

function write.h(key, p, last, held)
  local ttl, counters, sets = ARGV[p + 1], tonumber(ARGV[p + 2]), tonumber(ARGV[p + 3])
  if ARGV[p] == '1' then redis.call('UNLINK', key) end
  p = p + 4
  -- Amounts become sums, to be set with all else in one command.
  for i = 1, counters do
    local at = p + 2 * i - 1
    local have, amount = held and tonumber(held[i] or 0) or 0, tonumber(ARGV[at])
    if exact(have) and exact(amount) and exact(have + amount) then
      ARGV[at] = whole(have + amount)
    else
      redis.call('HINCRBY', key, ARGV[at - 1], ARGV[at])
      ARGV[at] = redis.call('HGET', key, ARGV[at - 1])
    end
  end
  in_parts('HSET', key, p, p + sets - 1)
  in_parts('HDEL', key, p + sets, last)
  if ttl ~= '-' then redis.call('PEXPIRE', key, ttl) end
end

function write.z(key, p, last)
  local adds = tonumber(ARGV[p])
  in_parts('ZADD', key, p + 1, p + adds)
  in_parts('ZREM', key, p + adds + 1, last)
end

function write.t(key, p)
  if ARGV[p] == '0' then
    redis.call('UNLINK', key)
  elseif ARGV[p + 1] == '-' then
    redis.call('SET', key, ARGV[p + 2])
  else
    redis.call('SET', key, ARGV[p + 2], 'PX', ARGV[p + 1])
  end
end

function write.T(list, p, last)
  local own, now = ARGV[7], clock()
  local window, bucket, ttl = tonumber(ARGV[p]), tonumber(ARGV[p + 1]), tonumber(ARGV[p + 2])
  mend(own, list)
  local buckets, totals = {}, {}
  for i = p + 3, last, 3 do
    local member, time, amount = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
    if time > now - window then
      -- What comes from the future counts as now: it must not stay for ever.
      local start = math.floor(math.min(time, now) / bucket) * bucket
      local sums = buckets[start]
      if not sums then sums = {}; buckets[start] = sums end
      sums[member] = (sums[member] or 0) + amount
      totals[member] = (totals[member] or 0) + amount
    end
  end
  for start, sums in pairs(buckets) do
    local key = own .. list .. ':' .. whole(start)
    -- One that was taken out of the list while the clock was ahead counts no more.
    if not redis.call('ZSCORE', own .. list .. ':buckets', whole(start)) then redis.call('UNLINK', key) end
    raise(key, sums)
    redis.call('PEXPIREAT', key, whole(start + bucket + window + lifetime(window, bucket, ttl)))
    redis.call('ZADD', own .. list .. ':buckets', whole(start), whole(start))
  end
  add(own, list, totals)
  touch(own, KEYS[2], KEYS[3], ARGV[8], list, window, bucket, ttl, now)
end

-- Scripts of Redis 6.2 may be told to replicate by their effects.
if redis.replicate_commands then redis.replicate_commands() end

local writing = ARGV[6] ~= 'check'
local position
if writing then
  local answer
  position, answer = moved()
  if not position then return answer end
end

local refused, places, held, p = {'refused'}, {}, {}, 10
for i = 4, #KEYS do
  local why, values = check(KEYS[i], ARGV[p], p + 2)
  if why then
    refused[#refused + 1] = i - 3
    refused[#refused + 1] = why
  end
  places[i], held[i] = p, values
  p = p + 2 + ARGV[p + 1]
end
if #refused > 1 then return refused end
if not writing then return {'done'} end

local budget = tonumber(ARGV[9])
for i = 4, #KEYS do
  p = places[i]
  if ARGV[p] == 'T' then
    budget = prune(ARGV[7], KEYS[i], tonumber(ARGV[p + 2]), tonumber(ARGV[p + 3]), clock(), budget)
    if not budget then return {'again'} end
  end
end

-- First: where Redis takes no writes (full, read-only) it says so at the first one, before anything is done.
redis.call('HSET', KEYS[1], ARGV[1], ARGV[4] .. ' ' .. ARGV[2] .. ' ' .. position[1] .. ' ' .. position[2])
for i = 4, #KEYS do
  p = places[i]
  write[ARGV[p]](KEYS[i], p + 2, p + 1 + ARGV[p + 1], held[i])
end
return {'done'}
