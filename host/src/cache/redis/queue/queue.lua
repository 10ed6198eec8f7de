-- What the pieces of a partition are; prepended to the scripts that work on one. Whatever piece is of another type is none of
-- ours and counts as absent: it is replaced. A piece that was evicted is missed and holds nothing up.
--
-- s  stream of the changes that are pending, and the truth about that: i id, r resource, p print, d record
-- i  hash, id -> what is known of it: STATE:PLACE:AT:PRINT, the state being p(ending), a(pplied) or d(ead)
-- n  zset of one score, `RESOURCE PLACE` of each that is pending, so that the newest of a resource is found
-- t  zset, when it was applied -> id, by which it is forgotten
-- d  hash, the dead letters: ID:m `PLACE:AT:PRINT:RESOURCE`, ID:e reason, ID:d record, ID:s the PLACE of what superseded it
-- x  zset of one score, the ids of the dead letters
-- r  zset of one score, `RESOURCE PLACE ID` of each
-- c  hash: bytes of the records that are pending and dead, how far the search for orphans has come, a mark for replicas

local stream, ids, newest, told, dead, letters, revivable, counts = unpack(KEYS)
for i, kind in ipairs({ 'stream', 'hash', 'zset', 'zset', 'hash', 'zset', 'zset', 'hash' }) do
  local is = redis.call('TYPE', KEYS[i]).ok
  if is ~= kind and is ~= 'none' then redis.call('DEL', KEYS[i]) end
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function digits(value)
  return string.format('%.0f', value)
end

-- An entry's number in the stream as two numbers.
local function split(at)
  local ms, n = string.match(at, '^(%d+)%-(%d+)$')
  return tonumber(ms), tonumber(n)
end

-- A number of the stream so that it sorts as a text.
local function place(at)
  local ms, n = split(at)
  return string.format('%013.0f-%07.0f', ms, n)
end

-- The fields of an entry that is pending, by name; none if it is not, or is none of ours.
local function pending(at)
  local entry = redis.call('XRANGE', stream, at, at)[1]
  if not entry then return end
  local fields = {}
  for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
  if fields.i and fields.r and fields.p and fields.d then return fields end
end

-- What is known of an id; none if nothing is, or what is known is no longer told, or what it speaks of was lost.
local function known(id, told_ms)
  local text = redis.call('HGET', ids, id)
  if not text then return end
  local reason = ''
  local state, at, since, print = string.match(text, '^([pad]):(%d+%-%d+):(%d+):(%x+)$')
  if state == 'p' then
    local fields = pending(at)
    if not fields or fields.i ~= id then return end
  elseif state == 'a' then
    if tonumber(since) + told_ms < now then return end
  elseif state == 'd' then
    if redis.call('HEXISTS', dead, id .. ':m') == 0 then return end
    reason = redis.call('HGET', dead, id .. ':e') or ''
  else
    return
  end
  return { state = state, at = at, since = since, print = print, reason = reason }
end

local function know(id, state, at, since, print)
  redis.call('HSET', ids, id, state .. ':' .. at .. ':' .. since .. ':' .. print)
end

-- Bytes of the records that are pending, or dead. Where there are none, what the count has lost count of is forgotten.
local function bytes(of, are)
  if are == 0 then return 0 end
  local text = redis.call('HGET', counts, of)
  if text and #text <= 15 and string.match(text, '^%d+$') then return tonumber(text) end
  return 0
end

local function weigh(of, are, more)
  redis.call('HSET', counts, of, digits(math.max(0, bytes(of, are) + more)))
end

-- { pending, dead, bytes, the first that is pending or nothing }
local function depth()
  local waiting, given_up = redis.call('XLEN', stream), redis.call('ZCARD', letters)
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  return { waiting, given_up, digits(bytes('pending', waiting) + bytes('dead', given_up)), first and first[1] or '' }
end

-- Takes a dead letter out of the list; the bytes of its record.
local function bury(id)
  local meta, record = redis.call('HGET', dead, id .. ':m'), redis.call('HGET', dead, id .. ':d') or ''
  local given_up = redis.call('ZCARD', letters)
  redis.call('ZREM', letters, id)
  local at, resource = string.match(meta or '', '^(%d+%-%d+):%d+:%x+:(.*)$')
  if at then redis.call('ZREM', revivable, resource .. ' ' .. place(at) .. ' ' .. id) end
  redis.call('HDEL', dead, id .. ':m', id .. ':e', id .. ':d', id .. ':s')
  weigh('dead', given_up, -#record)
end
