-- Reads the whole group for a node that mirrors it. Begins a new epoch if there is none, or if the seq went back.
-- ARGV: 1 an epoch to begin with, 2 the epoch the node knows, 3 the lowest seq that epoch can have, 4 the node's own seq

local epoch, seq = read_group()
if not epoch or (epoch == ARGV[2] and seq < tonumber(ARGV[3])) then
  make_group(ARGV[1], tonumber(ARGV[4]))
end
return { now, redis.call('HGETALL', group) }
