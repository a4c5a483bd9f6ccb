#!lua flags=allow-oom
-- ARGV: node, epoch, pool, wanted, most, milliseconds.  Lends a part of what a pool has (thousandths).
-- Answer: lent, how much.  What was lent before to this node comes back first.
local node, where, time = ARGV[1], P .. ':portion:' .. ARGV[3], now()
local refusal = guard(node, ARGV[2])
if refusal then return refusal end
local wanted, left, all = tonumber(ARGV[4]), tonumber(ARGV[5]), call('HGETALL', where)
for i = 1, #all, 2 do
  local amount, till = string.match(all[i + 1], '(%d+) (%d+)')
  if tonumber(till) <= time then
    call('HDEL', where, all[i])
  elseif all[i] ~= node then
    left = left - tonumber(amount)
  end
end
local lent = math.max(0, math.min(wanted, left))
call('HSET', where, node, lent .. ' ' .. string.format('%.0f', time + tonumber(ARGV[6])))
call('PEXPIRE', where, 10 * tonumber(ARGV[6]))
return {'lent', lent}
