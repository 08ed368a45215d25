-- Prunes the top lists that are due and lets them live on. KEYS: due, lists. ARGV: own, longest, budget. Answers 1 where there is more.
if redis.replicate_commands then redis.replicate_commands() end

local now, budget = clock(), tonumber(ARGV[3])
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', whole(now), 'LIMIT', 0, 100)
for _, list in ipairs(found) do
  local settings = redis.call('HGET', KEYS[2], list)
  local kind = redis.call('TYPE', list).ok
  if not settings or (kind ~= 'zset' and kind ~= 'none') then
    -- Of an unknown list, or one whose key a person uses for something else, what is firn's own goes by its time to live.
    redis.call('ZREM', KEYS[1], list)
    redis.call('HDEL', KEYS[2], list)
  else
    local window, bucket, ttl = settings:match('^(%d+) (%d+) (%d+)$')
    window, bucket, ttl = tonumber(window), tonumber(bucket), tonumber(ttl)
    budget = prune(ARGV[1], list, window, bucket, now, budget)
    if not budget then return 1 end
    mend(ARGV[1], list)
    touch(ARGV[1], KEYS[1], KEYS[2], ARGV[2], list, window, bucket, ttl, now)
  end
end
return #found == 100 and 1 or 0
