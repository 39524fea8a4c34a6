-- ARGV: now in milliseconds, limit. Answers id, due time, id, due time, ... of both halves.
local due = redis.call('ZRANGEBYSCORE', stem .. 'due+', '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for _, value in ipairs(redis.call('ZRANGEBYSCORE', stem .. 'due-', '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[2])) do
  due[#due + 1] = value
end
return due
