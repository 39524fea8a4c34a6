-- Answers live leases, then the due times that have waited longest (one for each half that is not empty).
local reply = {redis.call('ZCARD', stem .. 'due+')}
for _, side in ipairs({'+', '-'}) do
  local first = redis.call('ZRANGE', stem .. 'due' .. side, 0, 0, 'WITHSCORES')
  if first[2] then reply[#reply + 1] = first[2] end
end
return reply
