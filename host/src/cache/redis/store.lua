-- Stores an entry if its lease still stands and its resource was not purged since its load began, and ends the lease.
-- 1: stored, 0: refused.
-- KEYS: 1 the entry, 2 the generation of its resource, 3 its lease
-- ARGV: 1 epoch, 2 the entry's stamp, 3 the group's seq, read just before, 4 the entry's life (ms),
--       5 how long a generation matters (ms), 6 where the time goes, 7 the entry, 8 the lease's token, 9 the channel,
--       10 the word

local lease = redis.pcall('GET', KEYS[3])
if type(lease) ~= 'string' or string.match(lease, '^(%x+):') ~= ARGV[8] then return 0 end
local stamp = tonumber(ARGV[2])
local epoch, delete, expire
local value = redis.pcall('GET', KEYS[2])
if type(value) == 'string' then
  epoch, delete, expire = string.match(value, '^(%x+):(%d+):(%d+)$')
end
local life = string.format('%.0f', math.max(tonumber(ARGV[5]), redis.call('PTTL', KEYS[2])))
local known = epoch == ARGV[1]
if known then
  -- Expired at birth would be reloaded at once and could hide a fresher one: refused too.
  if stamp < tonumber(delete) or stamp < tonumber(expire) then return 0 end
else
  -- No generation, or one that was evicted while the load ran. Purges up to the group's seq may have been in it, so
  -- only an entry that was loaded after all of them is stored, and whatever else is stored here stays dead.
  if stamp < tonumber(ARGV[3]) then return 0 end
end
-- The entry first: a full Redis refuses the first write of a script that could take memory, and none after another.
local time = redis.call('TIME')
redis.call('SET', KEYS[1], ARGV[7], 'PX', ARGV[4])
redis.call('SETRANGE', KEYS[1], ARGV[6], string.format('%016.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
if known then
  redis.call('PEXPIRE', KEYS[2], life)
else
  redis.call('SET', KEYS[2], ARGV[1] .. ':' .. ARGV[3] .. ':0', 'PX', life)
end
redis.call('DEL', KEYS[3])
redis.call('PUBLISH', ARGV[9], ARGV[10])
return 1
