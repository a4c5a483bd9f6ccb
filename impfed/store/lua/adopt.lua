#!lua flags=allow-oom
-- ARGV: node, epoch, kind, dead owner ('' for what nobody has claimed), keys.  Moves those of the
-- records that are still the dead one's.  Answer: adopted, keys; alive.  Keys that are ours already are
-- among them, for the answer to the first attempt may have been lost.
local node, epoch, kind, owner = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local refusal = guard(node, epoch)
if refusal then return refusal end
if not free(owner) then return {'alive'} end
local from, mine, answer = place(kind, owner), place(kind, node), {'adopted'}
for i = 5, #ARGV do
  local value = call('HGET', from, ARGV[i])
  if value then
    call('HDEL', from, ARGV[i])
    call('HSET', mine, ARGV[i], value)
    call('HDEL', P .. ':lost:' .. node, kind .. ' ' .. ARGV[i])
    answer[#answer + 1] = ARGV[i]
  elseif call('HEXISTS', mine, ARGV[i]) == 1 then
    answer[#answer + 1] = ARGV[i]
  end
end
return answer
