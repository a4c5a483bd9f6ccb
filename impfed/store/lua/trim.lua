#!lua flags=allow-oom
-- ARGV: node, epoch, id.  Removes from the node's own mailbox what lies before the id.
local refusal = guard(ARGV[1], ARGV[2])
if refusal then return refusal end
return {'ok', call('XTRIM', P .. ':mail:' .. ARGV[1], 'MINID', ARGV[3])}
