package limit

import (
	"sync"
	"sync/atomic"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
)

// preparation is what the arguments of each charge of one policy need.
type preparation struct {
	policy *policy.RateLimit
	// argument is the policy's name, or its document.
	argument any
	// logs are the names of the limits that keep a log.
	logs []string
}

// mostPreparations bounds the memory for policies that are gone.
const mostPreparations = 1 << 15

// preparations are by policy name.
type preparations struct {
	byName sync.Map
	count  atomic.Int32
}

func (l *Limiter) prepared(p *policy.RateLimit) (*preparation, error) {
	known, found := l.known.byName.Load(p.Name)
	if found && known.(*preparation).policy == p {
		return known.(*preparation), nil
	}
	fresh := &preparation{policy: p, argument: p.Name}
	if l.mode == library.ModeScripts {
		document, err := library.PolicyDocument(p)
		if err != nil {
			return nil, err
		}
		fresh.argument = document
	}
	for i := range p.Limits {
		if p.Limits[i].Algorithm == policy.SlidingLog {
			fresh.logs = append(fresh.logs, p.Limits[i].Name)
		}
	}
	if !found && l.known.count.Add(1) > mostPreparations {
		l.known.count.Store(0)
		l.known.byName.Clear()
	}
	l.known.byName.Store(p.Name, fresh)
	return fresh, nil
}

// arguments gives a command's arguments: all keys, those of the logs behind their counter's, since a cluster redirects
// by the keys that it was told; then the charges. The slice is new, since a caller keeps it for as long as the command
// is on its way.
func (l *Limiter) arguments(command, script any, charges []Charge) ([]any, error) {
	var stack [8]*preparation
	known := stack[:0]
	keys, size := 0, 3
	for i := range charges {
		k, err := l.prepared(charges[i].Policy)
		if err != nil {
			return nil, err
		}
		known = append(known, k)
		keys += 1 + len(k.logs)
		size += 4 + len(k.logs) + len(charges[i].Values)
	}
	args := make([]any, 0, size)
	args = append(args, command, script, keys)
	for i := range charges {
		args = append(args, charges[i].Key)
		for _, name := range known[i].logs {
			args = append(args, redisops.LogKey(charges[i].Key, name))
		}
	}
	for i := range charges {
		args = append(args, known[i].argument, charges[i].Cost, "")
		for _, value := range charges[i].Values {
			args = append(args, value)
		}
	}
	return args, nil
}
