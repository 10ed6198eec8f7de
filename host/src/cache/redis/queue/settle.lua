
-- Ends changes: made, or given up. One that is not pending is left alone.
-- ARGV: 1 how long what became of one is told (ms), 2 of how many, then for each: its number, a(pplied) or d(ead), the reason

local function supersede(resource, at)
  local from, to = '[' .. resource .. ' ', '(' .. resource .. ' ' .. place(at)
  for _, letter in ipairs(redis.call('ZRANGEBYLEX', revivable, from, to)) do
    local field = string.match(letter, '(%x+)$') .. ':s'
    local by = redis.call('HGET', dead, field)
    if not by or by < place(at) then redis.call('HSET', dead, field, place(at)) end
  end
end

local function keep(at, fields, reason)
  local given_up = redis.call('ZCARD', letters)
  -- What an eviction of the list left behind.
  if given_up == 0 then redis.call('DEL', dead, revivable) end
  local id = fields.i
  redis.call('HSET', dead,
    id .. ':m', at .. ':' .. digits(now) .. ':' .. fields.p .. ':' .. fields.r, id .. ':e', reason, id .. ':d', fields.d)
  redis.call('ZADD', letters, 0, id)
  redis.call('ZADD', revivable, 0, fields.r .. ' ' .. place(at) .. ' ' .. id)
  weigh('dead', given_up, #fields.d)
end

local settled = 0
for i = 3, #ARGV, 3 do
  local at, applied = ARGV[i], ARGV[i + 1] == 'a'
  local fields = pending(at)
  if fields then
    -- The first write takes no memory: a full Redis takes all that follow it.
    redis.call('XDEL', stream, at)
    redis.call('ZREM', newest, fields.r .. ' ' .. place(at))
    weigh('pending', redis.call('XLEN', stream), -#fields.d)
    if applied then
      redis.call('ZADD', told, now, fields.i)
      supersede(fields.r, at)
    else
      keep(at, fields, ARGV[i + 2])
    end
    know(fields.i, ARGV[i + 1], at, digits(now), fields.p)
    settled = settled + 1
  end
end

-- Forgets what is told no longer: somewhat more than was added, so that it cannot outgrow its bound.
local function forget(list)
  for _, id in ipairs(list) do
    redis.call('ZREM', told, id)
    if string.sub(redis.call('HGET', ids, id) or '', 1, 2) == 'a:' then redis.call('HDEL', ids, id) end
  end
end
local most = settled + 16
forget(redis.call('ZRANGEBYSCORE', told, '-inf', '(' .. digits(now - tonumber(ARGV[1])), 'LIMIT', 0, most))
local excess = redis.call('ZCARD', told) - tonumber(ARGV[2])
if excess > 0 then forget(redis.call('ZRANGE', told, 0, math.min(excess, most) - 1)) end
return settled
