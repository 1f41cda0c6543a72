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
	// policy tells whether it is still the one of that name; nil where the key says that.
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

const (
	// mostPreparations bounds the memory for policies that are gone.
	mostPreparations = 1 << 15
	// mostDocuments is less, since each holds all of a policy.
	mostDocuments = 1 << 12
)

// preparations are by policy name, or those of calls that take their policies along by documentKey.
type preparations struct {
	known sync.Map
	count atomic.Int32
}

// documentKey names one version of a policy: those of one name differ from call to call.
type documentKey struct{ name, contentHash string }

// store keeps a preparation; isNew tells that there was none of that key.
func (s *preparations) store(key any, fresh *preparation, isNew bool, most int32) {
	if isNew && s.count.Add(1) > most {
		s.count.Store(0)
		s.known.Clear()
	}
	s.known.Store(key, fresh)
}

// prepared gives the preparation of a policy, in a call that takes its policies along or not.
func (l *Limiter) prepared(p *policy.RateLimit, along bool) (*preparation, error) {
	if along {
		return l.documented(p)
	}
	known, found := l.known.known.Load(p.Name)
	if found && known.(*preparation).policy == p {
		return known.(*preparation), nil
	}
	fresh := prepare(p)
	if l.mode == library.ModeScripts {
		document, err := library.PolicyDocument(p)
		if err != nil {
			return nil, err
		}
		fresh.argument = document
	}
	fresh.policy = p
	l.known.store(p.Name, fresh, !found, mostPreparations)
	return fresh, nil
}

// documented is prepared for a call that takes its policies along. It keeps no policy, so that it keeps no set alive.
func (l *Limiter) documented(p *policy.RateLimit) (*preparation, error) {
	key := documentKey{p.Name, p.ContentHash}
	if known, found := l.documents.known.Load(key); found {
		return known.(*preparation), nil
	}
	document, err := library.PolicyDocument(p)
	if err != nil {
		return nil, err
	}
	fresh := prepare(p)
	fresh.argument = document
	l.documents.store(key, fresh, true, mostDocuments)
	return fresh, nil
}

// prepare makes the preparation of a policy that Redis serves.
func prepare(p *policy.RateLimit) *preparation {
	fresh := &preparation{argument: p.Name, door: p.NeedsDoor()}
	fresh.addLogs(p.Limits)
	for i := range p.Overrides {
		fresh.addLogs(p.Overrides[i].Limits)
	}
	return fresh
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
// is on its way. along tells that the policies go with the call.
func (l *Limiter) arguments(o *operation, command, script any, charges []Charge, along bool) ([]any, error) {
	var stack [8]*preparation
	known := stack[:0]
	keys, size := 0, 3
	for i := range charges {
		k, err := l.prepared(charges[i].Policy, along)
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

// unpublished tells whether the policies have to go with the call.
func unpublished(charges []Charge) bool {
	for i := range charges {
		if charges[i].Unpublished {
			return true
		}
	}
	return false
}
