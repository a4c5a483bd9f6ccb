#!lua flags=allow-oom
-- ARGV: kind, key, writer.  Removes a record that belongs to all nodes.  Answer: its octets, or nothing.
local kind, key, where = ARGV[1], ARGV[2], P .. ':rec:' .. ARGV[1]
local value = call('HGET', where, key)
if not value then return {} end
call('HDEL', where, key)
local n = call('HINCRBY', P .. ':meta', 'feed', 1)
call('XADD', P .. ':feed', 'MAXLEN', '~', 20000, '*', 'n', n, 'kind', kind, 'key', key,
  'writer', ARGV[3])
return {value}
