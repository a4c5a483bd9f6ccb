#!lua flags=no-writes
-- ARGV: streams, without the prefix.  Answer: the id of the last entry of each, 0-0 when there is none.
local answer = {}
for i, name in ipairs(ARGV) do
  local found = call('XREVRANGE', P .. ':' .. name, '+', '-', 'COUNT', 1)
  answer[i] = found[1] and found[1][1] or '0-0'
end
return answer
