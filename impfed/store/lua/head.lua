-- Stands before every script.  KEYS[1] is the prefix of all keys; docs/store.md has the layout.
local P = KEYS[1]
local call = redis.call

-- Milliseconds by the one clock that all nodes share.
local function now()
  local t = call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Whether a node may still act with its epoch: nil, or the answer that says why not.  An epoch higher
-- than the one that is known was given by this store before it lost its last writes.
local function guard(node, epoch)
  local row = call('HMGET', P .. ':node:' .. node, 'epoch', 'state')
  if not row[1] or tonumber(row[1]) < tonumber(epoch) then return {'unknown'} end
  if row[1] ~= epoch or row[2] == 'dead' or row[2] == 'left' then
    return {'fenced', row[1], row[2]}
  end
  return nil
end

-- The place of the records of a kind that one node owns; '' owns what nobody has claimed.
local function place(kind, owner) return P .. ':rec:' .. kind .. ':' .. owner end

local function nodes()
  local found = call('SMEMBERS', P .. ':nodes')
  table.sort(found)
  return found
end

-- Who owns a record besides one node: false when nobody does.
local function other_holder(kind, key, node, names)
  if node ~= '' and call('HEXISTS', place(kind, ''), key) == 1 then return '' end
  for _, name in ipairs(names) do
    if name ~= node and call('HEXISTS', place(kind, name), key) == 1 then return name end
  end
  return false
end

-- Whether what a node owned may be had by others.
local function free(owner)
  if owner == '' then return true end
  local state = call('HGET', P .. ':node:' .. owner, 'state')
  return not state or state == 'dead' or state == 'left'
end

-- Milliseconds for which nobody could beat, because the store was away: they count for nobody's age.
local function deaf(time)
  local heard = tonumber(call('HGET', P .. ':meta', 'heard') or time)
  return time - heard > DEAF_MS and time - heard or 0
end
