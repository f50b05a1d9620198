-- What wrk sends: `-- BODY TOKEN`, BODY being small, large or mix; a line of JSON when it is done.
local paths = { small = "/api/movies/small", large = "/api/movies/large" }
local made, turn = {}, 0

function init(arguments)
  local headers = { Authorization = arguments[2], ["Accept"] = "application/json" }
  local function get(path) return wrk.format("GET", path, headers) end
  if arguments[1] ~= "mix" then
    made = { get(paths[arguments[1]]) }
    return
  end
  -- Of ten: eight small answers, one of 100 KiB, one request that brings 1 KiB along.
  for at = 1, 8 do made[at] = get(paths.small) end
  made[9] = get(paths.large)
  local sent = { Authorization = arguments[2], ["Content-Type"] = "application/json" }
  made[10] = wrk.format("POST", paths.small, sent, '"' .. string.rep("x", 1022) .. '"')
end

function request()
  turn = turn % #made + 1
  return made[turn]
end

function done(summary, latency, _)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "took_us": %d, "p50_us": %d, "p99_us": %d, "failed": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
