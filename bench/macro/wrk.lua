-- wrk -s wrk.lua URL -- CONTENT_BYTES DEPTH THOUGHT_MS KEYS FIRST [FIELD...]
-- Builds the request once (wrk then sends the same bytes each time: no Lua while it measures), or
-- with KEYS one for each of URL/NUMBER, and prints what it saw as one line of JSON.

function init(args)
   local content_bytes, depth = tonumber(args[1]), tonumber(args[2])
   local thought_ms, keys = tonumber(args[3]), tonumber(args[4])
   local number = tonumber(args[5])
   for at = 6, #args do
      local name, value = args[at]:match("^([^:]+): (.*)$")
      wrk.headers[name] = value
   end
   if content_bytes > 0 then
      wrk.method = "POST"
      wrk.body = string.rep("x", content_bytes)
   end
   if depth > 1 then
      local batch = string.rep(wrk.format(), depth)
      wrk.format = function() return batch end
   end
   if keys ~= 0 then
      local head, tail = wrk.format(nil, wrk.path .. "/@"):match("^(.-)@(.*)$")
      function request()
         number = keys > 0 and math.random(0, keys - 1) or number + 1
         return head .. string.format("%09d", number) .. tail
      end
   end
   if thought_ms > 0 then
      function delay() return math.random(0, thought_ms) end
   end
end

function done(summary, latency, requests)
   local e = summary.errors
   io.write(string.format(
      '\n{"requests": %d, "seconds": %.6f, "bytes": %d, "errors": %d, ' ..
      '"p50": %.1f, "p99": %.1f, "p999": %.1f}\n',
      summary.requests, summary.duration / 1e6, summary.bytes,
      e.connect + e.read + e.write + e.status + e.timeout,
      latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
