-- Writes down how far a duty has come, if its lease is still the owner's. 1: it was.
-- KEYS: 1 the lease, 2 the progress.  ARGV: 1 token, 2 the progress, 3 how long it is kept (ms)

local value = redis.pcall('GET', KEYS[1])
if type(value) ~= 'string' or string.match(value, '^(%x+):') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return 1
