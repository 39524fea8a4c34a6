-- ARGV: now in milliseconds, the most to remove. Answers how many were removed.
local gone = redis.call('ZRANGEBYSCORE', KEYS[1] .. 'end', '-inf', '(' .. ARGV[1], 'LIMIT', 0, ARGV[2])
for _, serial in ipairs(gone) do
  redis.call('ZREM', KEYS[1] .. 'end', serial)
  redis.call('HDEL', KEYS[1] .. 'at', serial)
end
return #gone
