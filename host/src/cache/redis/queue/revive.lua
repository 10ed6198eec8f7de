
-- Makes a dead letter pending again. { 'done', number } | { 'superseded' } | { 'unknown' } | { 'beyond' }
-- ARGV: 1 id, 2 whether one that is superseded too, 3 floor, 4 the channel, 5 the word, which the number follows

local id = ARGV[1]
local meta, record = redis.call('HGET', dead, id .. ':m'), redis.call('HGET', dead, id .. ':d')
local print, resource = string.match(meta or '', '^%d+%-%d+:%d+:(%x+):(.*)$')
if not print or not record then return { 'unknown' } end
if ARGV[2] ~= '1' and redis.call('HEXISTS', dead, id .. ':s') == 1 then return { 'superseded' } end
local at, answer = add({ i = id, r = resource, p = print, d = record }, ARGV[3], ARGV[4], ARGV[5])
if not at then return answer end
bury(id)
return { 'done', at }
