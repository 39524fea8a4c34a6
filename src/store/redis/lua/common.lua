-- Put before every script that works on a partition. KEYS[1] is the stem of the partition's keys, for example
-- "daypass:{07}:"; every key made from it has the same hash tag and so lies on the same node of a cluster.
--
--   l                    hash: id -> record (see record.rs); ids are packed into 14 bytes (see keys.rs)
--   due<half>            sorted set: id, by due time in milliseconds
--   role<half>:<place>   sorted set in the order of ids; a place is "<tenant>:<role>"
--   dir<half>            sorted set of the places that hold a lease
--   sub<half>:<bucket>   sorted set of "<caller><id>"; a caller is 11 bytes of digest of the subject, 3 of the tenant
--   cap                  hash: tenant -> live leases; a tenant without one has no field
--   req:<bucket>         hash: request key -> id, for live leases
--   use:<bucket>         sorted set: token use key, by the time (ms) until which it is remembered
--   uses                 sorted set: first of four buckets of token uses, by the earliest of their times
--
-- Each index has two halves, "+" for live leases and "-" for ended ones: counts of live leases then are sizes, and what
-- is kept for reading costs nothing to those who look for what is live. Buckets keep each set small enough for Redis' compact
-- encoding.
local stem = KEYS[1]
local records = stem .. 'l'

local function version(record)
  return struct.unpack('>I4', record, 2)
end

local function half(record)
  if string.byte(record, 6) < 3 then return '+' end
  return '-'
end

local function request_key(record)
  if string.byte(record, 7) == 1 then return string.sub(record, 8, 23) end
end

local function without_request_key(record)
  if string.byte(record, 7) ~= 1 then return record end
  return string.sub(record, 1, 6) .. '\0' .. string.sub(record, 24)
end

local function with_request_key(record, key)
  return string.sub(record, 1, 6) .. '\1' .. key .. string.sub(record, 8)
end

local function request_bucket(key)
  return stem .. 'req:' .. string.format('%02x', string.byte(key, 1) % 128)
end

-- One of 512, by the first bytes of a digest.
local function bucket_of(digest)
  local first, second = string.byte(digest, 1, 2)
  return string.format('%03x', first * 2 + second % 2)
end

-- The first of the four buckets that are looked after together.
local function first_of_four(bucket)
  return string.format('%03x', math.floor(tonumber(bucket, 16) / 4) * 4)
end

local function caller_bucket(side, caller)
  return stem .. 'sub' .. side .. ':' .. bucket_of(caller)
end

local function tenant_of(place)
  return string.match(place, '^[^:]+')
end

local function index(id, side, due, place, caller)
  redis.call('ZADD', stem .. 'due' .. side, due, id)
  if redis.call('ZADD', stem .. 'role' .. side .. ':' .. place, 0, id) == 1 then
    redis.call('ZADD', stem .. 'dir' .. side, 0, place)
  end
  redis.call('ZADD', caller_bucket(side, caller), 0, caller .. id)
  if side == '+' then redis.call('HINCRBY', stem .. 'cap', tenant_of(place), 1) end
end

local function unindex(id, side, place, caller)
  redis.call('ZREM', stem .. 'due' .. side, id)
  local roles = stem .. 'role' .. side .. ':' .. place
  redis.call('ZREM', roles, id)
  if redis.call('EXISTS', roles) == 0 then redis.call('ZREM', stem .. 'dir' .. side, place) end
  redis.call('ZREM', caller_bucket(side, caller), caller .. id)
  if side == '+' and redis.call('HINCRBY', stem .. 'cap', tenant_of(place), -1) <= 0 then
    redis.call('HDEL', stem .. 'cap', tenant_of(place))
  end
end

-- Whether the use of a token was before, and not by the same request.
local function replayed(use, retry)
  local function used(key)
    return key ~= '' and redis.call('ZSCORE', stem .. 'use:' .. bucket_of(key), key)
  end
  return used(use) and not used(retry)
end

-- Puts the use of a token on record until a time.
local function remember(use, retry, forget)
  for _, key in ipairs({use, retry}) do
    if key ~= '' then
      local bucket = bucket_of(key)
      redis.call('ZADD', stem .. 'use:' .. bucket, forget, key)
      redis.call('ZADD', stem .. 'uses', 'LT', forget, first_of_four(bucket))
    end
  end
end

-- Writes a lease over the stored record (false when there is none), and keeps every index in step. The request key
-- goes with the record while the lease is live.
local function write(id, stored, record, due, place, caller)
  local side = half(record)
  if stored and half(stored) == side then
    redis.call('ZADD', stem .. 'due' .. side, due, id)
  else
    if stored then unindex(id, half(stored), place, caller) end
    index(id, side, due, place, caller)
  end
  local key = stored and request_key(stored)
  if key and side == '+' then
    record = with_request_key(record, key)
  elseif key and redis.call('HGET', request_bucket(key), key) == id then
    redis.call('HDEL', request_bucket(key), key)
  end
  redis.call('HSET', records, id, record)
end
