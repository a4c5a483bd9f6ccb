#!lua flags=no-writes
-- ARGV: kind, key.  Answer: owner and octets, or nothing.
local value = call('HGET', place(ARGV[1], ''), ARGV[2])
if value then return {'', value} end
for _, name in ipairs(nodes()) do
  value = call('HGET', place(ARGV[1], name), ARGV[2])
  if value then return {name, value} end
end
return {}
