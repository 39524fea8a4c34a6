-- ARGV: halves ("+", "-" or "+-"), id to start after or "", id to end before or "", limit, tenant or "", role or "",
-- caller or "" (11 bytes: the subject under any tenant; 14: under one).
-- Answers {count, ids of one source, ids of the next, ...}. The ids of a source are one string, in order, at most `count`
-- of them; a source that gives exactly `count` may have more.
local halves, after, before, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local tenant, role, caller = ARGV[5], ARGV[6], ARGV[7]
local sources = {} -- {key, what stands before the id in its members}

local function callers(side)
  local key = caller_bucket(side, caller)
  local from, to = '[' .. caller, '(' .. caller .. string.rep('\255', 18)
  while true do
    local member = redis.call('ZRANGEBYLEX', key, from, to, 'LIMIT', 0, 1)[1]
    if not member then return end
    local whole = string.sub(member, 1, 14)
    sources[#sources + 1] = {key, whole}
    from = '(' .. whole .. string.rep('\255', 15)
  end
end

local function places(side)
  local from, to = '-', '+'
  -- ";" is the character after ":".
  if tenant ~= '' then from, to = '[' .. tenant .. ':', '(' .. tenant .. ';' end
  for _, place in ipairs(redis.call('ZRANGEBYLEX', stem .. 'dir' .. side, from, to)) do
    if role == '' or string.match(place, ':(.*)$') == role then
      sources[#sources + 1] = {stem .. 'role' .. side .. ':' .. place, ''}
    end
  end
end

for side in string.gmatch(halves, '.') do
  if caller ~= '' then callers(side) else places(side) end
end

-- Many sources share the limit, so that one call never reads much more than a page.
local count = limit
if #sources > 1 then count = math.min(limit, math.max(16, math.ceil(2 * limit / #sources))) end
local reply = {count}
for _, source in ipairs(sources) do
  local key, head = source[1], source[2]
  local from, to = '[' .. head, '(' .. head .. string.rep('\255', 15)
  if after ~= '' then from = '(' .. head .. after end
  if before ~= '' then to = '(' .. head .. before end
  local members = redis.call('ZRANGEBYLEX', key, from, to, 'LIMIT', 0, count)
  if head ~= '' then
    for i, member in ipairs(members) do members[i] = string.sub(member, 15) end
  end
  reply[#reply + 1] = table.concat(members)
end
return reply
