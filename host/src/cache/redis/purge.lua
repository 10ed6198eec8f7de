-- Takes the next number of the sequence, and writes it to a field unless what is purged has a key of its own.
-- Tells every node in the same step, so that the order of what they hear is the order of the numbers.
-- ARGV: 1 an epoch to begin with, 2 the node's own seq, 3 the field or nothing, 4 how long a purge matters (ms),
--       5 the most fields, 6 the channel, 7 what is purged

local epoch, seq = read_group()
if not epoch then
  epoch, seq = ARGV[1], 0
  make_group(epoch, seq)
end
-- Never below what a node counted on its own while it could not ask.
local before = seq
seq = math.max(seq, tonumber(ARGV[2])) + 1
redis.call('HSET', group, 'seq', digits(seq))

local collapsed = 0
if ARGV[3] ~= '' then
  redis.call('HSET', group, ARGV[3], digits(seq) .. ':' .. digits(now))

  -- Forgets purges that no living entry is older than: one page for each that is added, so the hash cannot outgrow it.
  local cursor = redis.call('HGET', group, 'scan')
  if not cursor or #cursor > 20 or not string.match(cursor, '^%d+$') then cursor = '0' end
  local page = redis.call('HSCAN', group, cursor, 'COUNT', 16)
  for i = 1, #page[2], 2 do
    local at = string.match(page[2][i + 1], '^%d+:(%d+)$')
    if at and tonumber(at) < now - tonumber(ARGV[4]) then
      redis.call('HDEL', group, page[2][i])
    end
  end
  redis.call('HSET', group, 'scan', page[1])

  -- Too many to remember: from now on everything as old as the last of them counts as purged.
  if redis.call('HLEN', group) > tonumber(ARGV[5]) then
    make_group(epoch, seq)
    redis.call('HSET', group, 'all:d', digits(seq) .. ':' .. digits(now))
    collapsed = 1
  end
end
local told = redis.call('PUBLISH', ARGV[6],
  'p:' .. epoch .. ':' .. digits(before) .. ':' .. digits(seq) .. ':' .. collapsed .. ':' .. ARGV[7])
return { epoch, digits(seq), collapsed, told }
