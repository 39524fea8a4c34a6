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
for bucket = 0, 63 do
  redis.call('ZREMRANGEBYSCORE', stem .. 'use:' .. string.format('%02x', bucket), '-inf', '(' .. ARGV[1])
end
return 0
