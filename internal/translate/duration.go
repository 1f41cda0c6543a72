package translate

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/penstock-dev/penstock/api/v1"
)

// gep2257 is the pattern of a duration in the schema.
var gep2257 = regexp.MustCompile(`^([0-9]{1,5}(h|m|s|ms)){1,4}$`)

// duration reads a duration that must lie from shortest to longest.
func duration(d v1.Duration, shortest, longest time.Duration, path *field.Path) (time.Duration, *field.Error) {
	parsed, err := d.Parse()
	if err != nil || !gep2257.MatchString(string(d)) {
		return 0, field.Invalid(path, string(d), "want a duration such as 250ms, 1m30s or 744h; there is no unit for days")
	}
	if parsed < shortest || parsed > longest {
		return 0, field.Invalid(path, string(d), fmt.Sprintf("must be from %s to %s", compact(shortest), compact(longest)))
	}
	return parsed, nil
}

// durationOr is duration with the default of the schema for an object that never passed it.
func durationOr(d, unset v1.Duration, shortest, longest time.Duration, path *field.Path) (time.Duration, *field.Error) {
	if d == "" {
		d = unset
	}
	return duration(d, shortest, longest, path)
}

// compact prints a duration as GEP-2257 does: 1m30s, 250ms, 744h, 0s.
func compact(d time.Duration) string {
	if d < time.Millisecond {
		return "0s"
	}
	var out strings.Builder
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}, {time.Millisecond, "ms"}} {
		if n := d / unit.length; n > 0 {
			out.WriteString(strconv.FormatInt(int64(n), 10) + unit.name)
			d -= n * unit.length
		}
	}
	return out.String()
}
