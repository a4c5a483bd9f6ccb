#!lua flags=allow-oom
-- ARGV: node, epoch, instance, info.  Makes a live node known again to a store that has lost it.
-- Answer: joined, epoch; fenced when it knows better.
local node, epoch = ARGV[1], tonumber(ARGV[2])
local where = P .. ':node:' .. node
local row = call('HMGET', where, 'epoch', 'state')
local known, over = tonumber(row[1] or '0'), row[2] == 'dead' or row[2] == 'left'
if known > epoch or (known == epoch and over) then
  return {'fenced', row[1], row[2]}
end
local highest = tonumber(call('HGET', P .. ':meta', 'epoch') or '0')
call('HSET', P .. ':meta', 'epoch', math.max(highest, epoch))
call('HINCRBY', P .. ':meta', 'generation', 1)
if deaf(now()) == 0 then call('HSET', P .. ':meta', 'heard', now()) end
call('SADD', P .. ':nodes', node)
call('HSET', where, 'instance', ARGV[3], 'epoch', epoch, 'state', 'live', 'beat', now(),
  'number', 0, 'settled', 0, 'info', ARGV[4])
return {'joined', epoch}
