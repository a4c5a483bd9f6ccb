#!lua flags=allow-oom
-- ARGV: node, epoch, kind, to, generation by which they are the other's, keys.  Gives records of this node
-- to a live one, which finds word of it in its mailbox.  In a later generation they may be a third one's,
-- and the other may have said already that it has given all it had to give.
-- Answer: given, keys; gone (the other is not live); over (the generation is).
local node, epoch, kind, to = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local refusal = guard(node, epoch)
if refusal then return refusal end
if free(to) then return {'gone'} end
local generation = tonumber(call('HGET', P .. ':meta', 'generation') or '0')
if generation > tonumber(ARGV[5]) then return {'over'} end
local answer, word = {'given'}, {'given', kind}
for i = 6, #ARGV do
  local value = call('HGET', place(kind, node), ARGV[i])
  if value then
    call('HDEL', place(kind, node), ARGV[i])
    call('HSET', place(kind, to), ARGV[i], value)
    call('HDEL', P .. ':lost:' .. to, kind .. ' ' .. ARGV[i])
    answer[#answer + 1] = ARGV[i]
    word[#word + 1] = 'k' .. i
    word[#word + 1] = ARGV[i]
  elseif call('HEXISTS', place(kind, to), ARGV[i]) == 1 then
    answer[#answer + 1] = ARGV[i]  -- at an attempt whose answer was lost
  end
end
if #word > 2 then call('XADD', P .. ':mail:' .. to, '*', unpack(word)) end
return answer
