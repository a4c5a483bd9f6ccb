#!lua flags=allow-oom
-- ARGV: node, epoch, dead node, ids.  Removes letters from the mailbox of a dead node.
-- Answer: ok, ids that were still there; alive.
local refusal = guard(ARGV[1], ARGV[2])
if refusal then return refusal end
if not free(ARGV[3]) then return {'alive'} end
local answer = {'ok'}
for i = 4, #ARGV do
  if call('XDEL', P .. ':mail:' .. ARGV[3], ARGV[i]) == 1 then answer[#answer + 1] = ARGV[i] end
end
return answer
