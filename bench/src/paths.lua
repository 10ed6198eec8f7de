-- Walks the paths of a file, one a line, round and round, over all connections. Requests are rendered once, because the load has
-- one core and must not be what is measured.
local requests = {}
local count = 0
local at = 0

init = function(args)
  for path in io.lines(args[1]) do
    count = count + 1
    requests[count] = wrk.format("GET", path)
  end
end

request = function()
  at = at % count + 1
  return requests[at]
end

done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"refused_answers":%d,"broken_connections":%d,"timeouts":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write, errors.timeout))
end
