#!lua flags=no-writes
-- ARGV: kind, '=' and the owner ('*' for a kind without owners), cursor, count.
-- Answer: next cursor, keys and octets.
local where = ARGV[2] == '*' and P .. ':rec:' .. ARGV[1] or place(ARGV[1], string.sub(ARGV[2], 2))
return call('HSCAN', where, ARGV[3], 'COUNT', ARGV[4])
