#!lua flags=
-- ARGV: node, epoch, to, limit, then octets of each letter.  All or none.
-- Answer: posted, ids; full, length; gone (the other is not live).
local refusal = guard(ARGV[1], ARGV[2])
if refusal then return refusal end
local to, limit, where = ARGV[3], tonumber(ARGV[4]), P .. ':mail:' .. ARGV[3]
if free(to) then return {'gone'} end
local length = call('XLEN', where)
if length + #ARGV - 4 > limit then return {'full', length} end
local answer = {'posted'}
for i = 5, #ARGV do answer[#answer + 1] = call('XADD', where, '*', 'd', ARGV[i]) end
return answer
