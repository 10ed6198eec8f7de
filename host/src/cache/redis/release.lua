-- Gives a lease back, and tells who waits for it that nothing was stored.
-- ARGV: 1 token, 2 the channel, 3 the word

local value = redis.pcall('GET', KEYS[1])
if type(value) ~= 'string' or string.match(value, '^(%x+):') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
