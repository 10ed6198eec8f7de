-- Keeps a lease that is still the owner's. 1: it is.
-- ARGV: 1 token, 2 liveness (ms)

local value = redis.pcall('GET', KEYS[1])
if type(value) ~= 'string' or string.match(value, '^(%x+):') ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
