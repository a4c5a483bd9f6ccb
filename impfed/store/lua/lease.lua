#!lua flags=allow-oom
-- ARGV: node, epoch, name, "take" or "free".  A lease lasts as long as its holder's epoch.
-- Answer: mine; held, holder; free.
local node, epoch, where = ARGV[1], ARGV[2], P .. ':lease:' .. ARGV[3]
local refusal = guard(node, epoch)
if refusal then return refusal end
local row = call('HMGET', where, 'node', 'epoch')
local mine = row[1] == node and row[2] == epoch
if ARGV[4] == 'free' then
  if mine then call('DEL', where) end
  return {'free'}
end
if not mine then
  if row[1] and not guard(row[1], row[2]) then return {'held', row[1]} end
  call('HSET', where, 'node', node, 'epoch', epoch)
end
return {'mine'}
