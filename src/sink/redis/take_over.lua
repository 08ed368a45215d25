-- Raises the epoch of partitions. KEYS: positions. ARGV: fields. Answers of each next or '-', its epoch, the topic id or '-'.
local answer = {}
for i, field in ipairs(ARGV) do
  local have = redis.call('HGET', KEYS[1], field) or '- 0 0 -'
  local next, epoch, generation, topic = have:match('^(%S+) (%S+) (%S+) (%S+)$')
  if not next then return redis.error_reply('FIRN what is stored of ' .. field .. ' can not be read: ' .. have) end
  epoch = string.format('%.0f', epoch + 1)
  redis.call('HSET', KEYS[1], field, next .. ' ' .. epoch .. ' ' .. generation .. ' ' .. topic)
  for _, part in ipairs({next, epoch, topic}) do answer[#answer + 1] = part end
end
return answer
