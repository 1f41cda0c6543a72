package main

import (
	"strconv"
	"strings"
	"time"
)

// began is where steered time begins: 2027-01-15T08:00:00Z, which is a multiple of the window.
var began = time.Date(2027, 1, 15, 8, 0, 0, 0, time.UTC)

const nowKey = "bench:now"

// setTime gives the command that sets the time which the library sees, in microseconds since began.
func setTime(now int64) []any {
	return []any{"set", nowKey, strconv.FormatInt(began.UnixMicro()+now, 10)}
}

// steering stands before the library and gives it another TIME: that at nowKey. It looks up the real table late, since
// that one grows once the library is loaded. Real time is far slower than steered time here, so no key with a TTL
// expires; the library relies on that only for the records of ids, of which there are none.
const steering = `local redis = (function()
  return {
    call = function(command, ...)
      if command == 'TIME' then
        local now = redis.call('GET', '` + nowKey + `')
        return {string.sub(now, 1, -7), string.sub(now, -6)}
      end
      return redis.call(command, ...)
    end,
    pcall = function(...) return redis.pcall(...) end,
    error_reply = function(text) return redis.error_reply(text) end,
    register_function = function(...) return redis.register_function(...) end,
  }
end)()
`

// steerable gives the text of a library whose time is steered.
func steerable(text string) string {
	head, rest, _ := strings.Cut(text, "\n")
	return head + "\n" + steering + rest
}
