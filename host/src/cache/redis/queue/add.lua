
-- Appends a change, and makes it the newest of its resource. Its number is above all that Redis remembers and above
-- `floor`, which a node has seen: after a failover that lost the last ones too. The part behind the hyphen stays below 2^20.
-- Returns the number, or nothing and an answer: an error of Redis, or 'beyond' where numbers are of no clock.
local function add(fields, floor, channel, word)
  local function append(at)
    return redis.pcall('XADD', stream, at, 'i', fields.i, 'r', fields.r, 'p', fields.p, 'd', fields.d)
  end
  local waiting = redis.call('XLEN', stream)
  local at = append('*')
  -- The first write of the script: a full Redis refuses this one.
  if type(at) == 'table' and not string.find(at.err, 'exhausted', 1, true) then return nil, at end
  local ms, n
  if type(at) == 'string' then ms, n = split(at) end
  if not ms or ms >= 8796093022208 then
    if ms then redis.call('XDEL', stream, at) end
    if waiting > 0 then return nil, { 'beyond' } end
    -- Nothing of ours is in it.
    redis.call('DEL', stream)
    at = redis.call('XADD', stream, '*', 'i', fields.i, 'r', fields.r, 'p', fields.p, 'd', fields.d)
    ms, n = split(at)
  end
  local floor_ms, floor_n = split(floor)
  local below = ms < floor_ms or (ms == floor_ms and n <= floor_n)
  if below or n >= 1048576 then
    redis.call('XDEL', stream, at)
    if below then ms, n = floor_ms, floor_n + 1 end
    if n >= 1048576 then ms, n = ms + 1, 0 end
    at = digits(ms) .. '-' .. digits(n)
    redis.call('XADD', stream, at, 'i', fields.i, 'r', fields.r, 'p', fields.p, 'd', fields.d)
  end
  -- What an eviction of the stream left behind.
  if waiting == 0 then redis.call('DEL', newest) end
  redis.call('ZADD', newest, 0, fields.r .. ' ' .. place(at))
  know(fields.i, 'p', at, '0', fields.p)
  weigh('pending', waiting, #fields.d)
  redis.call('PUBLISH', channel, word .. at)
  return at
end
