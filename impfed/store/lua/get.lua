#!lua flags=no-writes
-- ARGV: kind, or kind:owner when it has one, keys.  Answer: octets of each, nil for none.
return call('HMGET', P .. ':rec:' .. ARGV[1], unpack(ARGV, 2))
