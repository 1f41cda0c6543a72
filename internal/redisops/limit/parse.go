package limit

import (
	"errors"
	"fmt"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
)

// ErrMalformed tells that Redis answered something else than a row. Whether the charge was made is unknown.
var ErrMalformed = errors.New("malformed reply")

// maxMs is the largest time in a row: 2^53-1 microseconds, some 285 years.
const maxMs = 1<<53/1000 + 1

// parseRows reads n rows.
func parseRows(reply any, n int) ([]Row, error) {
	replies, is := reply.([]any)
	if !is || len(replies) != n {
		return nil, fmt.Errorf("%w: want %d rows", ErrMalformed, n)
	}
	rows := make([]Row, n)
	for i := range replies {
		var err error
		if rows[i], err = parseRow(replies[i]); err != nil {
			return nil, fmt.Errorf("row %d: %w", i, err)
		}
	}
	return rows, nil
}

// parseRow reads a row: allowed, limit, remaining, reset ms, retry after ms, binding limit, reason, id, override, new, and
// what newer versions put behind it. Older ones end with the id.
func parseRow(reply any) (Row, error) {
	fields, is := reply.([]any)
	if !is || len(fields) < 8 {
		return Row{}, fmt.Errorf("%w: want a row of at least 8 fields, got %T", ErrMalformed, reply)
	}
	var integers [5]int64
	for i := range integers {
		if integers[i], is = fields[i].(int64); !is {
			return Row{}, fmt.Errorf("%w: field %d is %T, want an integer", ErrMalformed, i, fields[i])
		}
	}
	var words [3]string
	for i := range words {
		if words[i], is = fields[5+i].(string); !is {
			return Row{}, fmt.Errorf("%w: field %d is %T, want a string", ErrMalformed, 5+i, fields[5+i])
		}
	}
	var grown [2]int64
	for i := range grown {
		if len(fields) <= 8+i {
			break
		}
		if grown[i], is = fields[8+i].(int64); !is || grown[i] < 0 || grown[i] > policy.MaxOverrides {
			return Row{}, fmt.Errorf("%w: field %d is %T, want an integer from 0 to %d", ErrMalformed, 8+i, fields[8+i], policy.MaxOverrides)
		}
	}
	allowed, limit, remaining, reset, retryAfter := integers[0], integers[1], integers[2], integers[3], integers[4]
	if allowed != 0 && allowed != 1 || limit < -1 || remaining < 0 || reset < 0 || reset > maxMs ||
		retryAfter < 0 || retryAfter > maxMs || allowed == 0 && retryAfter == 0 {
		return Row{}, fmt.Errorf("%w: %v is out of range", ErrMalformed, integers)
	}
	return Row{
		Allowed:    allowed == 1,
		Limit:      limit,
		Remaining:  remaining,
		Reset:      time.Duration(reset) * time.Millisecond,
		RetryAfter: time.Duration(retryAfter) * time.Millisecond,
		LimitName:  words[0],
		Reason:     words[1],
		ID:         words[2],
		Override:   int(grown[0]),
		New:        grown[1] == 1,
		Garbled:    grown[1] == 2,
	}, nil
}
