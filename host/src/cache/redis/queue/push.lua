
-- Accepts a change, once for each id.
-- { 'accepted', number } | { 'known', state, number, since, reason } | { 'another' } | { 'full', depth } | { 'beyond' }
-- ARGV: 1 id, 2 resource, 3 print, 4 record, 5 most items, 6 most bytes, 7 how long it is told (ms), 8 floor,
--       9 the channel, 10 the word, which the number follows

local id = ARGV[1]
local before = known(id, tonumber(ARGV[7]))
if before then
  if before.print ~= ARGV[3] then return { 'another' } end
  return { 'known', before.state, before.at, before.since, before.reason }
end
local deep = depth()
if deep[1] + deep[2] >= tonumber(ARGV[5]) or tonumber(deep[3]) + #ARGV[4] > tonumber(ARGV[6]) then
  return { 'full', deep }
end
local at, answer = add({ i = id, r = ARGV[2], p = ARGV[3], d = ARGV[4] }, ARGV[8], ARGV[9], ARGV[10])
if not at then return answer end
redis.call('ZREM', told, id)

-- Ids of what was lost with an evicted piece: one page for each that is added, so the hash cannot outgrow the rest.
if redis.call('HLEN', ids) > redis.call('XLEN', stream) + redis.call('ZCARD', letters) + redis.call('ZCARD', told) then
  local cursor = redis.call('HGET', counts, 'scan')
  if not cursor or #cursor > 20 or not string.match(cursor, '^%d+$') then cursor = '0' end
  local page = redis.call('HSCAN', ids, cursor, 'COUNT', 16)
  for i = 1, #page[2], 2 do
    local it, applied = page[2][i], string.sub(page[2][i + 1], 1, 2) == 'a:'
    if (applied and not redis.call('ZSCORE', told, it)) or (not applied and not known(it, 0)) then
      redis.call('HDEL', ids, it)
    end
  end
  redis.call('HSET', counts, 'scan', page[1])
end
return { 'accepted', at }
