-- Concurrency: slots that are acquired and released, or expire.
--
-- KEYS:  the counter (a hash), whose field for the limit holds "N", and the slots <counter>:<limit name> (a sorted set):
--        members are their ids, scores the times at which they expire, in microseconds.
-- ARGV:  none of its own.
-- Reply: none of its own.
-- Time:  the caller's, in microseconds. Slots that expire later than the longest TTL from now (the clock went back, or
--        the policy's TTL was lowered) expire then.

local function new_concurrency()
  local concurrency = {}

  function concurrency.prepare(limit)
    limit.suffix = ':' .. limit.name
    limit.ttl = limit.slotTtlMs * 1000
    limit.keep = limit.slotTtlMs + 1000
  end

  return concurrency
end
