-- ARGV: now in milliseconds. Answers {revision, {serial, not after, ...}, {revoked at, ...}}, both in the same order.
local members = redis.call('ZRANGEBYSCORE', KEYS[1] .. 'end', ARGV[1], '+inf', 'WITHSCORES')
local revoked = {}
for i = 1, #members, 2 do
  revoked[#revoked + 1] = redis.call('HGET', KEYS[1] .. 'at', members[i])
end
return {tonumber(redis.call('GET', KEYS[1] .. 'rev') or 0), members, revoked}
