-- ARGV: for each lease its id, record, due, place, caller. Answers for each 0 done, 1 conflict, 2 missing.
local outcomes = {}
for i = 1, #ARGV, 5 do
  local id, record = ARGV[i], ARGV[i + 1]
  local stored = redis.call('HGET', records, id)
  local outcome = 1
  if not stored then
    outcome = 2
  elseif version(stored) + 1 == version(record) then
    write(id, stored, record, ARGV[i + 2], ARGV[i + 3], ARGV[i + 4])
    outcome = 0
  elseif without_request_key(stored) == record then
    outcome = 0
  end
  outcomes[#outcomes + 1] = outcome
end
return outcomes
