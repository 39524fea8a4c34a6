-- ARGV: now in milliseconds, then for each lease its id, record, due (unused), place, caller.
-- Removes leases that have ended and are in the version given; then forgets token uses whose time has passed.
for i = 2, #ARGV, 5 do
  local id, record = ARGV[i], ARGV[i + 1]
  local stored = redis.call('HGET', records, id)
  if stored and half(stored) == '-' and version(stored) == version(record) then
    unindex(id, '-', ARGV[i + 3], ARGV[i + 4])
    redis.call('HDEL', records, id)
  end
end
for _, four in ipairs(redis.call('ZRANGEBYSCORE', stem .. 'uses', '-inf', '(' .. ARGV[1])) do
  local earliest
  for bucket = tonumber(four, 16), tonumber(four, 16) + 3 do
    local uses = stem .. 'use:' .. string.format('%03x', bucket)
    redis.call('ZREMRANGEBYSCORE', uses, '-inf', '(' .. ARGV[1])
    local first = tonumber(redis.call('ZRANGE', uses, 0, 0, 'WITHSCORES')[2])
    if first and (not earliest or first < earliest) then earliest = first end
  end
  if earliest then
    redis.call('ZADD', stem .. 'uses', string.format('%.0f', earliest), four)
  else
    redis.call('ZREM', stem .. 'uses', four)
  end
end
return 0
