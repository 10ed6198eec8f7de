-- Raises the generation of one resource, in the resource's own slot. Never lowers it.
-- ARGV: 1 epoch, 2 seq, 3 d or e, 4 how long it matters (ms)

local epoch, delete, expire
local value = redis.pcall('GET', KEYS[1])
if type(value) == 'string' then
  epoch, delete, expire = string.match(value, '^(%x+):(%d+):(%d+)$')
end
if epoch ~= ARGV[1] then
  -- The generation was lost, so its entries are dead; a key that came back with less than it held would revive them.
  delete, expire = ARGV[2], '0'
elseif ARGV[3] == 'd' then
  if tonumber(ARGV[2]) > tonumber(delete) then delete = ARGV[2] end
else
  if tonumber(ARGV[2]) > tonumber(expire) then expire = ARGV[2] end
end
local life = math.max(tonumber(ARGV[4]), redis.call('PTTL', KEYS[1]))
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. delete .. ':' .. expire, 'PX', string.format('%.0f', life))
return 1
