-- Sets positions in a new generation. KEYS: positions. ARGV: field, next, ... Answers of each its epoch.
local answer = {}
for i = 1, #ARGV, 2 do
  local have = redis.call('HGET', KEYS[1], ARGV[i]) or '- 0 0 -'
  local epoch, generation = have:match('^%S+ (%d+) (%d+) %S+$')
  epoch = string.format('%.0f', (epoch or 0) + 1)
  generation = string.format('%.0f', (generation or 0) + 1)
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1] .. ' ' .. epoch .. ' ' .. generation .. ' -')
  answer[#answer + 1] = epoch
end
return answer
