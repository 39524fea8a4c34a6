-- KEYS[1] is the stem of a collection's keys, for example "daypass:{shared:keys}:".
--   e     hash: key -> "<version> <body>"
--   rev   counts changes, from a number drawn at random: a store that lost it does not come by the one before
-- ARGV: key, version, body, the most entries, where a new count begins. Answers 1 when it is written, or was by an earlier call.
local there = redis.call('HGET', KEYS[1] .. 'e', ARGV[1])
local wanted = ARGV[2] .. ' ' .. ARGV[3]
if there == wanted then return 1 end
local version = there and tonumber(string.match(there, '^%d+')) or 0
if version + 1 ~= tonumber(ARGV[2]) then return 0 end
if not there and redis.call('HLEN', KEYS[1] .. 'e') >= tonumber(ARGV[4]) then return 0 end
redis.call('HSET', KEYS[1] .. 'e', ARGV[1], wanted)
redis.call('SET', KEYS[1] .. 'rev', ARGV[5], 'NX')
redis.call('INCR', KEYS[1] .. 'rev')
return 1
