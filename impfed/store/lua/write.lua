#!lua flags=
-- ARGV: writer, number of the batch, node, epoch, changes of each write "2,1,3", then for each change
-- kind ("=kind" when it has an owner), key, octets ('' removes).
-- Each write is made wholly or not at all.  A batch that comes again is answered as the first time;
-- one that comes late, after a later one, is not made.
local writer, number, node, epoch = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local mark = P .. ':writer:' .. writer
local seen = call('HMGET', mark, 'number', 'answer')
local last = tonumber(seen[1] or '0')
if number == last then return cmsgpack.unpack(seen[2]) end
if number < last then return {'late'} end
if node ~= '' then
  local refusal = guard(node, epoch)
  if refusal then return refusal end
end
local names = nodes()
local lost = node ~= '' and P .. ':lost:' .. node
if lost and call('EXISTS', lost) == 0 then lost = false end

local moves = {}

-- The owner of a record that this write would touch though it is not ours.  What a dead node or
-- nobody owns is ours when we write it.
local function foreign(kind, key)
  if lost then
    local owner = call('HGET', lost, kind .. ' ' .. key)
    if owner then return owner end
  end
  if call('HEXISTS', place(kind, node), key) == 1 then return false end
  local owner = other_holder(kind, key, node, names)
  if owner and free(owner) then
    moves[#moves + 1] = {place(kind, owner), key}
    return false
  end
  return owner
end

local answer = {'done'}
local at, index = 6, 0
for count in string.gmatch(ARGV[5], '%d+') do
  local first, after = at, at + 3 * tonumber(count)
  local refused = false
  moves = {}
  for i = first, after - 1, 3 do
    local kind = ARGV[i]
    if string.sub(kind, 1, 1) == '=' then
      refused = foreign(string.sub(kind, 2), ARGV[i + 1])
      if refused then break end
    end
  end
  if refused then
    answer[#answer + 1] = index
    answer[#answer + 1] = refused
  else
    for _, move in ipairs(moves) do call('HDEL', move[1], move[2]) end
    for i = first, after - 1, 3 do
      local kind, key, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
      local owned = string.sub(kind, 1, 1) == '='
      local where = owned and place(string.sub(kind, 2), node) or P .. ':rec:' .. kind
      if value == '' then call('HDEL', where, key) else call('HSET', where, key, value) end
      if not owned then
        local n = call('HINCRBY', P .. ':meta', 'feed', 1)
        call('XADD', P .. ':feed', 'MAXLEN', '~', 20000, '*', 'n', n, 'kind', kind, 'key', key,
          'writer', writer)
      end
    end
  end
  at, index = after, index + 1
end
call('HSET', mark, 'number', number, 'answer', cmsgpack.pack(answer))
call('PEXPIRE', mark, 3600000)
return answer
