-- Tries each command that firn's scripts use, on a key of its own. Answers what Redis refuses, and why.
-- KEYS: a key that nothing holds.
if redis.replicate_commands then redis.replicate_commands() end

local key, refused = KEYS[1], {}
local function try(...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err then refused[#refused + 1] = (...) .. ': ' .. answer.err end
end

try('TIME')
try('TYPE', key)
try('EXISTS', key)
try('HSET', key, 'a', '1')
try('PEXPIRE', key, '60000')
try('PEXPIREAT', key, string.format('%.0f', redis.call('TIME')[1] * 1000 + 60000))
try('HINCRBY', key, 'a', '1')
try('HGET', key, 'a')
try('HMGET', key, 'a')
try('HGETALL', key)
try('HSCAN', key, '0')
try('HDEL', key, 'a')
try('ZADD', key, '1', 'a')
try('ZRANGE', key, '0', '0')
try('ZRANGEBYSCORE', key, '-inf', '0')
try('ZREM', key, 'a')
try('XADD', key, '*', 'a', '1')
try('XINFO', 'STREAM', key)
try('XTRIM', key, 'MAXLEN', '~', '1')
try('UNLINK', key)
try('SET', key, '1', 'PX', '60000')
try('UNLINK', key)
return refused
