package limit

import (
	"slices"
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
	// door tells that the functions want to be told that the policy's expressions were evaluated.
	door bool
}

// doorArgument stands behind the values of a policy with expressions: by it the caller says that they were evaluated.
const doorArgument = "door"

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
	fresh.door = p.NeedsDoor()
	fresh.addLogs(p.Limits)
	for i := range p.Overrides {
		fresh.addLogs(p.Overrides[i].Limits)
	}
	if !found && l.known.count.Add(1) > mostPreparations {
		l.known.count.Store(0)
		l.known.byName.Clear()
	}
	l.known.byName.Store(p.Name, fresh)
	return fresh, nil
}

// addLogs adds the limits that keep one, each name once.
func (p *preparation) addLogs(limits []policy.Limit) {
	for i := range limits {
		algorithm := limits[i].Algorithm
		if (algorithm == policy.SlidingLog || algorithm == policy.Concurrency) && !slices.Contains(p.logs, limits[i].Name) {
			p.logs = append(p.logs, limits[i].Name)
		}
	}
}

// arguments gives a command's arguments: all keys, those of the logs behind their counter's, since a cluster redirects
// by the keys that it was told; then the charges. The slice is new, since a caller keeps it for as long as the command
// is on its way.
func (l *Limiter) arguments(o *operation, command, script any, charges []Charge) ([]any, error) {
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
		size += 5 + len(k.logs) + len(charges[i].Values)
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
		if o.bare {
			args = append(args, known[i].argument, "", "")
		} else {
			args = append(args, known[i].argument, charges[i].Cost, charges[i].ID)
		}
		for _, value := range charges[i].Values {
			args = append(args, value)
		}
		if o.decides && known[i].door {
			args = append(args, doorArgument)
		}
	}
	return args, nil
}
