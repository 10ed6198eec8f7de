-- The hash of the whole group, `PREFIX:{g}`: epoch, seq, and the last purge of everything, of each route and each tag.
-- Prepended to the scripts that use it. Whatever is not such a hash counts as absent: it is replaced, in a new epoch.

local group = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- A number as we write it: exact in a double, and never in exponents.
local function number(text)
  if type(text) == 'string' and #text <= 15 and string.match(text, '^%d+$') then
    return tonumber(text)
  end
end

local function digits(value)
  return string.format('%.0f', value)
end

-- Epoch and seq; nothing if they are not there.
local function read_group()
  local fields = redis.pcall('HMGET', group, 'epoch', 'seq')
  if fields.err then return end
  local epoch, seq = fields[1], number(fields[2])
  if seq and type(epoch) == 'string' and #epoch == 16 and string.match(epoch, '^%x+$') then
    return epoch, seq
  end
end

local function make_group(epoch, seq)
  redis.call('DEL', group)
  redis.call('HSET', group, 'epoch', epoch, 'seq', digits(seq))
end

