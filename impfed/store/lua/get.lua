#!lua flags=no-writes
-- ARGV: kind without owners, keys.  Answer: octets of each, nil for none.
return call('HMGET', P .. ':rec:' .. ARGV[1], unpack(ARGV, 2))
