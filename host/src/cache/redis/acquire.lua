-- Takes the lease of a key, if nobody has it, or if the load of who has it began before a purge that covers the key.
-- KEYS: 1 the lease, 2 the entry.  ARGV: 1 token, 2 epoch, 3 the stamp's seq, 4 the least seq that is not yet covered,
--       5 liveness (ms), 6 where the entry's time stands, 7 how many digits it has
-- { 1, milliseconds since the entry was stored or -1 } or { 0, milliseconds that the lease has left }

local value = redis.pcall('GET', KEYS[1])
local epoch, seq
if type(value) == 'string' then
  epoch, seq = string.match(value, '^%x+:(%x+):(%d+)$')
end
-- What is no lease, or one that would not end, is replaced.
if epoch == ARGV[2] and tonumber(seq) >= tonumber(ARGV[4]) then
  local left = redis.call('PTTL', KEYS[1])
  if left >= 0 and left <= tonumber(ARGV[5]) then return { 0, left } end
end
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. ARGV[2] .. ':' .. ARGV[3], 'PX', ARGV[5])
local ago = -1
local stored = redis.pcall('GETRANGE', KEYS[2], ARGV[6], ARGV[6] + ARGV[7] - 1)
if type(stored) == 'string' and #stored == tonumber(ARGV[7]) and string.match(stored, '^%d+$') then
  local time = redis.call('TIME')
  ago = math.max(0, time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(stored))
end
return { 1, ago }
