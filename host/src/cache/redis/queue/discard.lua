
-- Forgets a dead letter. 1: there was one.
-- ARGV: 1 id

local id = ARGV[1]
if redis.call('HEXISTS', dead, id .. ':m') == 0 and not redis.call('ZSCORE', letters, id) then return 0 end
bury(id)
if string.sub(redis.call('HGET', ids, id) or '', 1, 2) == 'd:' then redis.call('HDEL', ids, id) end
return 1
