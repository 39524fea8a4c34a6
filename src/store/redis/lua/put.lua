-- ARGV: id, record, due, place, caller, tenant cap, caller cap, request key or "", token use key or "", its time,
-- its retry's key or "".
-- Answers {0} stored, {1, id, record} existing, {2} token replayed, {3} tenant cap, {4} caller cap, {5} another lease has the id.
local id, record, due, place, caller = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local tenant_cap, caller_cap = tonumber(ARGV[6]), tonumber(ARGV[7])
local request, use, forget, retry = ARGV[8], ARGV[9], ARGV[10], ARGV[11]

local stored = redis.call('HGET', records, id)
if stored then
  if version(stored) > version(record) or without_request_key(stored) == record then return {0} end
  return {5}
end

if request ~= '' then
  local other = redis.call('HGET', request_bucket(request), request)
  local existing = other and redis.call('HGET', records, other)
  if existing and half(existing) == '+' then return {1, other, existing} end
end
if replayed(use, retry) then return {2} end
if tonumber(redis.call('HGET', stem .. 'cap', tenant_of(place)) or 0) >= tenant_cap then return {3} end
-- No id is above fourteen bytes of 255.
local last = '[' .. caller .. string.rep('\255', 14)
if redis.call('ZLEXCOUNT', caller_bucket('+', caller), '[' .. caller, last) >= caller_cap then return {4} end

if request ~= '' and half(record) == '+' then
  redis.call('HSET', request_bucket(request), request, id)
  record = with_request_key(record, request)
end
write(id, false, record, due, place, caller)
remember(use, retry, forget)
return {0}
