
-- What is known of a change. { state, number, since, reason } | { }
-- ARGV: 1 id, 2 how long it is told (ms)

local it = known(ARGV[1], tonumber(ARGV[2]))
if not it then return {} end
return { it.state, it.at, it.since, it.reason }
