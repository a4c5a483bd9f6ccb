#!lua flags=allow-oom
-- ARGV: node, epoch, number of the beat, state (live, draining), settled generation, generation that the
-- node knows, info, seen marks.  Says that the node lives, and ends the lease of those that have not said
-- so for long.  A generation that the node knows and we do not was lost: the next one is higher.
-- Answer: ok, time, number of the beat before, generation, number of nodes, six values for each node,
-- then the marks of records that were taken from us (kind, key, owner).
local node, epoch = ARGV[1], ARGV[2]
local refusal = guard(node, epoch)
if refusal then return refusal end
local where, time = P .. ':node:' .. node, now()
local gap = deaf(time)
call('HSET', P .. ':meta', 'heard', time)
local before = call('HMGET', where, 'number', 'state')
call('HSET', where, 'beat', time, 'number', ARGV[3], 'state', ARGV[4], 'settled', ARGV[5],
  'info', ARGV[7])
local changed, known = before[2] ~= ARGV[4], tonumber(ARGV[6])
if tonumber(call('HGET', P .. ':meta', 'generation') or '0') < known then
  call('HSET', P .. ':meta', 'generation', known)
  changed = true
end
for i = 8, #ARGV do call('HDEL', P .. ':lost:' .. node, ARGV[i]) end
local names, rows = nodes(), {}
for _, name in ipairs(names) do
  local row = call('HMGET', P .. ':node:' .. name, 'epoch', 'state', 'beat', 'settled', 'info')
  if gap > 0 and name ~= node then row[3] = call('HINCRBY', P .. ':node:' .. name, 'beat', gap) end
  local age = math.max(0, time - tonumber(row[3]))
  if (row[2] == 'live' or row[2] == 'draining') and age > LEASE_MS then
    row[2] = 'dead'
    call('HSET', P .. ':node:' .. name, 'state', 'dead')
    call('DEL', P .. ':lost:' .. name)
    changed = true
  end
  rows[#rows + 1] = {name, row[1], row[2], age, row[4], row[5]}
end
if changed then call('HINCRBY', P .. ':meta', 'generation', 1) end
local generation = call('HGET', P .. ':meta', 'generation')
return {'ok', time, before[1], generation, rows, call('HGETALL', P .. ':lost:' .. node)}
