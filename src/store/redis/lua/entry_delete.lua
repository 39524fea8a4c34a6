-- KEYS[1] is the stem of a collection's keys. ARGV: key, version. Answers 1 when there is no such entry any more.
local there = redis.call('HGET', KEYS[1] .. 'e', ARGV[1])
if not there then return 1 end
if tonumber(string.match(there, '^%d+')) ~= tonumber(ARGV[2]) then return 0 end
redis.call('HDEL', KEYS[1] .. 'e', ARGV[1])
redis.call('INCR', KEYS[1] .. 'rev')
return 1
