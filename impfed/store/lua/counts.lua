#!lua flags=no-writes
-- ARGV: kind.  Answer: owner and number of records, for each; a kind without owners has the owner '='.
local answer = {'=', call('HLEN', P .. ':rec:' .. ARGV[1]), '', call('HLEN', place(ARGV[1], ''))}
for _, name in ipairs(nodes()) do
  answer[#answer + 1] = name
  answer[#answer + 1] = call('HLEN', place(ARGV[1], name))
end
return answer
