#!lua flags=allow-oom
-- ARGV: node, instance, info, floor, again.  Makes the node live with a new epoch, higher than any before
-- and than the floor.  Answer: joined, epoch; taken, milliseconds since the other one's beat.
local node, instance, info, floor = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local where = P .. ':node:' .. node
local row = call('HMGET', where, 'instance', 'state', 'beat', 'epoch')
if row[1] and row[1] ~= instance and row[2] ~= 'dead' and row[2] ~= 'left' then
  local age = now() - tonumber(row[3])
  if age <= LEASE_MS then return {'taken', age} end
end
local epoch = math.max(tonumber(call('HGET', P .. ':meta', 'epoch') or '0'), floor) + 1
call('HSET', P .. ':meta', 'epoch', epoch)
call('HINCRBY', P .. ':meta', 'generation', 1)
if deaf(now()) == 0 then call('HSET', P .. ':meta', 'heard', now()) end
call('SADD', P .. ':nodes', node)
call('DEL', where, P .. ':lost:' .. node)
call('HSET', where, 'instance', instance, 'epoch', epoch, 'state', 'live', 'beat', now(),
  'number', 0, 'settled', 0, 'info', info)
return {'joined', epoch}
