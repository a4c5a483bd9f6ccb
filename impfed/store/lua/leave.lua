#!lua flags=allow-oom
-- ARGV: node, epoch.  Ends the node's lease at its own wish; what it still owns is free.
local refusal = guard(ARGV[1], ARGV[2])
if refusal then return refusal end
call('HSET', P .. ':node:' .. ARGV[1], 'state', 'left')
call('DEL', P .. ':lost:' .. ARGV[1])
call('HINCRBY', P .. ':meta', 'generation', 1)
return {'ok'}
