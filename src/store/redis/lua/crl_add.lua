-- KEYS[1] is the stem of a CA's keys, for example "daypass:{crl:main}:".
--   end   sorted set: serial, by its certificate's expiry in milliseconds
--   at    hash: serial -> when its revocation was acknowledged, in milliseconds
--   rev   counts changes
-- ARGV: for each serial the serial, revoked at, not after.
local new = false
for i = 1, #ARGV, 3 do
  if redis.call('HSETNX', KEYS[1] .. 'at', ARGV[i], ARGV[i + 1]) == 1 then
    redis.call('ZADD', KEYS[1] .. 'end', ARGV[i + 2], ARGV[i])
    new = true
  end
end
if new then redis.call('INCR', KEYS[1] .. 'rev') end
return 0
