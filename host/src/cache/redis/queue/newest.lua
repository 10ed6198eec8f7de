
-- The last change of a resource that is pending: { number, id, record } | { }
-- ARGV: 1 resource

local from, to = '(' .. ARGV[1] .. '!', '[' .. ARGV[1] .. ' '
-- Those that the stream has lost are passed over, and forgotten.
for _ = 1, 64 do
  local member = redis.call('ZREVRANGEBYLEX', newest, from, to, 'LIMIT', 0, 1)[1]
  if not member then return {} end
  local ms, n = string.match(member, ' 0*(%d+)%-0*(%d+)$')
  local at = ms and ms .. '-' .. n
  local fields = at and pending(at)
  if fields and fields.r == ARGV[1] then return { at, fields.i, fields.d } end
  redis.call('ZREM', newest, member)
end
return {}
