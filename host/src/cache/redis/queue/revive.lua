
-- Makes a dead letter pending again. { 'done', number } | { 'superseded' } | { 'unknown' } | { 'beyond' }
-- ARGV: 1 id, 2 whether one that is superseded too, 3 floor, 4 the channel, 5 the word, which the number follows, 6 a number:
-- a change of its resource that was made or is pending counts as later than it if it is later than this too

local id = ARGV[1]
local meta, record = redis.call('HGET', dead, id .. ':m'), redis.call('HGET', dead, id .. ':d')
local given, print, resource = string.match(meta or '', '^(%d+%-%d+):%d+:(%x+):(.*)$')
if not print or not record then return { 'unknown' } end
if ARGV[2] ~= '1' then
  local by = redis.call('HGET', dead, id .. ':s')
  if by and by > place(ARGV[6]) then return { 'superseded' } end
  local from, to = '(' .. resource .. '!', '[' .. resource .. ' '
  for _ = 1, 64 do
    local member = redis.call('ZREVRANGEBYLEX', newest, from, to, 'LIMIT', 0, 1)[1]
    if not member then break end
    local at = string.sub(member, #resource + 2)
    local ms, n = string.match(at, '^0*(%d+)%-0*(%d+)$')
    if not ms or not pending(ms .. '-' .. n) then
      redis.call('ZREM', newest, member)
    else
      if at > place(given) and at > place(ARGV[6]) then return { 'superseded' } end
      break
    end
  end
end
local at, answer = add({ i = id, r = resource, p = print, d = record }, ARGV[3], ARGV[4], ARGV[5])
if not at then return answer end
bury(id)
return { 'done', at }
