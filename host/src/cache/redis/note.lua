-- Replaces a note, if it is what is expected. { 1 } or { 0, what it is, or nothing }
-- ARGV: 1 whether one is expected, 2 which, 3 whether there is to be one, 4 which, 5 how long it is kept (ms)

local value = redis.pcall('GET', KEYS[1])
if type(value) ~= 'string' then value = nil end
if (ARGV[1] == '1') ~= (value ~= nil) or (value and value ~= ARGV[2]) then return { 0, value } end
if ARGV[3] == '1' then
  redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5])
else
  redis.call('DEL', KEYS[1])
end
return { 1 }
