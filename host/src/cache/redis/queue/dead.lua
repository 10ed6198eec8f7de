
-- Dead letters in the order of their ids: [next or nothing, { id, meta, reason, record, whether it is superseded }, …]
-- ARGV: 1 the id after which, or nothing, 2 how many are looked at

local from = ARGV[1] == '' and '-' or '(' .. ARGV[1]
local page = redis.call('ZRANGEBYLEX', letters, from, '+', 'LIMIT', 0, ARGV[2])
local found = { #page == tonumber(ARGV[2]) and page[#page] or '' }
for _, id in ipairs(page) do
  local it = redis.call('HMGET', dead, id .. ':m', id .. ':e', id .. ':d', id .. ':s')
  if it[1] and it[3] then
    found[#found + 1] = { id, it[1], it[2] or '', it[3], it[4] and 1 or 0 }
  else
    -- What it was is lost.
    bury(id)
  end
end
return found
