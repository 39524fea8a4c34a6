-- KEYS[1] is the stem of a CA's keys; `num` counts its CRLs. ARGV: the floor, below 2^53.
local number = math.max(tonumber(redis.call('GET', KEYS[1] .. 'num') or 0) + 1, tonumber(ARGV[1]))
redis.call('SET', KEYS[1] .. 'num', string.format('%.0f', number))
return number
