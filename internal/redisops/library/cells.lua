-- The state of one call: a cell for each limit of each counter that it touches.
--
-- KEYS, ARGV: none of its own.
-- Reply:      none of its own.
-- Time:       none.
--
-- Redis runs one call at a time, so arrays that stay are garbage that is not made.
--
-- Each algorithm but Concurrency is a table of functions:
--   prepare(limit)                  works out what is constant
--   read(limit, i, raw, now, key)   loads cell i from the text of the counter's field (false: there is none); gives an
--                                   error reply when another key is not what it should be
--   check(limit, i, now, cost, key) gives remaining (requests), reset and retry (microseconds); retry > 0 is a denial
--   write(limit, i, now, cost, key) gives the field's new text, and for the counter's TTL in milliseconds the least that
--                                   the state needs, and what to set when it has less
--   give(limit, i, now, cost, key, charged, last)
--                                   takes back a cost, of which charged is the time and last the number of its last
--                                   entry where they are known (else nil). Whatever is not certain is kept: a refund
--                                   never lets more pass than the limit allows
-- Text that is not exactly what write gives counts as none: the limit starts anew.

-- What is used, in the algorithm's unit.
local used = {}
-- The time that belongs to it, in the algorithm's unit.
local at = {}
-- Whether even a denial has to write the state.
local stale = {}
-- Whether the field's text was a state of the limit.
local known_state = {}

-- is_ours tells whether a text is the state of some limit: of an algorithm or a window that the limit had before.
local function is_ours(text)
  return find(text, '^[FSTC][0-9]+ [0-9]+ [0-9]+$') or find(text, '^C[0-9]+ [0-9]+ [0-9]+ [0-9]+$') or
    find(text, '^K%a+/[%w/_+-]+ [0-9]+ [0-9]+$') or find(text, '^B %-?[0-9]+$') or text == 'N'
end
