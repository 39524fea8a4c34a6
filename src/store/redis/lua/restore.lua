-- ARGV: for each lease its id, record, due, place, caller. Answers how many were written.
local written = 0
for i = 1, #ARGV, 5 do
  local id, record = ARGV[i], ARGV[i + 1]
  local stored = redis.call('HGET', records, id)
  if not stored or version(stored) < version(record) then
    write(id, stored, record, ARGV[i + 2], ARGV[i + 3], ARGV[i + 4])
    written = written + 1
  end
end
return written
