#!lua flags=no-writes
-- ARGV: whose mailbox, after which id, count.  Answer: ids and octets; '' for word of given records,
-- which mean nothing to anybody else.
local found = call('XRANGE', P .. ':mail:' .. ARGV[1], '(' .. ARGV[2], '+', 'COUNT', ARGV[3])
local answer = {}
for _, entry in ipairs(found) do
  answer[#answer + 1] = entry[1]
  answer[#answer + 1] = entry[2][1] == 'd' and entry[2][2] or ''
end
return answer
