-- ARGV: token use key, its time, its retry's key or "". Answers 0, or 1 for a replay.
if replayed(ARGV[1], ARGV[3]) then return 1 end
remember(ARGV[1], ARGV[3], ARGV[2])
return 0
