#!lua flags=allow-oom
-- ARGV: node, epoch, kind, key.  Takes one record over from a node that does not beat any more, or
-- that nobody has claimed.  Answer: taken, octets, from; held, owner; none.
local node, epoch, kind, key = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local refusal = guard(node, epoch)
if refusal then return refusal end
local mine = place(kind, node)
local value = call('HGET', mine, key)
if value then return {'taken', value, node} end
local owner = other_holder(kind, key, node, nodes())
if not owner then return {'none'} end
if not free(owner) then
  local beat = tonumber(call('HGET', P .. ':node:' .. owner, 'beat'))
  if now() - beat - deaf(now()) <= SUSPECT_MS then return {'held', owner} end
  call('HSET', P .. ':lost:' .. owner, kind .. ' ' .. key, node)
end
value = call('HGET', place(kind, owner), key)
call('HDEL', place(kind, owner), key)
call('HSET', mine, key, value)
call('HDEL', P .. ':lost:' .. node, kind .. ' ' .. key)
return {'taken', value, owner}
