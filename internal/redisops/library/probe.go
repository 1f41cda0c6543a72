package library

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/redisops"
)

// Mode is how a server is made to decide.
type Mode int

const (
	// ModeFunctions calls the functions of the library, which holds the policies (FCALL).
	ModeFunctions Mode = iota
	// ModeScripts sends the policy with each call to a script (EVALSHA).
	ModeScripts
)

// String gives "functions" or "scripts".
func (m Mode) String() string {
	if m == ModeScripts {
		return "scripts"
	}
	return "functions"
}

// Capabilities are what a server was found to know by trying it.
type Capabilities struct {
	// Functions: FUNCTION and FCALL (Redis 7.0).
	Functions bool
	// ScriptFlags: scripts may begin with #!lua (Redis 7.0).
	ScriptFlags bool
}

// Mode is the best that the server knows.
func (c Capabilities) Mode() Mode {
	if c.Functions {
		return ModeFunctions
	}
	return ModeScripts
}

// Probe tries what the server knows. It changes nothing but the server's cache of scripts. It fails when the server
// cannot be asked or permits too little to tell: FCALL_RO is needed, and EVAL where there are no functions.
func Probe(ctx context.Context, client redis.UniversalClient) (Capabilities, error) {
	// Whether that function is there does not matter: each way the server shows that it knows FCALL.
	err := client.Do(ctx, "FCALL_RO", "penstock_policy", 0).Err()
	switch {
	case err == nil, replyContains(err, "Function not found"), replyContains(err, "PENSTOCK_"):
		// Both came with 7.0; and a user who may not EVAL needs none.
		return Capabilities{Functions: true, ScriptFlags: true}, nil
	case !replyContains(err, "unknown command"):
		return Capabilities{}, fmt.Errorf("probing for functions: %w", err)
	}

	err = client.Do(ctx, "EVAL", "#!lua flags=no-writes\nreturn 1", 0).Err()
	if err != nil && !IsNotCompiled(err) {
		return Capabilities{}, fmt.Errorf("probing for script flags: %w", err)
	}
	return Capabilities{ScriptFlags: err == nil}, nil
}

// ProbeAll gives what all primaries know that answer: decisions go to each of them in the same way. One that does not
// answer counts as if it knew the same as the others; it fails when none of them can be asked, or one permits too little.
func ProbeAll(ctx context.Context, servers *redisops.Servers) (Capabilities, error) {
	primaries, err := servers.Primaries(ctx)
	if err != nil {
		return Capabilities{}, fmt.Errorf("probing the primaries: %w", err)
	}
	if len(primaries) == 0 {
		return Capabilities{}, fmt.Errorf("probing the primaries: %w: none has a slot", redisops.ErrNotExecuted)
	}
	found, failures := make([]Capabilities, len(primaries)), make([]error, len(primaries))
	var probing sync.WaitGroup
	for i := range primaries {
		probing.Go(func() { found[i], failures[i] = Probe(ctx, primaries[i].Client) })
	}
	probing.Wait()
	all, answered := Capabilities{Functions: true, ScriptFlags: true}, false
	for i, failure := range failures {
		if failure == nil {
			all = Capabilities{Functions: all.Functions && found[i].Functions, ScriptFlags: all.ScriptFlags && found[i].ScriptFlags}
			answered = true
		} else if redisops.Classify(failure) == redisops.Configuration {
			return Capabilities{}, fmt.Errorf("%s: %w", primaries[i].Address, failure)
		}
	}
	if !answered {
		return Capabilities{}, errors.Join(failures...)
	}
	return all, nil
}

// IsNotCompiled tells whether the error is a server's reply to a script that it could not compile, as those that do not
// know #!lua reply to a script that begins with it.
func IsNotCompiled(err error) bool {
	return replyContains(err, "compiling script")
}

func replyContains(err error, text string) bool {
	var reply redis.Error
	return errors.As(err, &reply) && strings.Contains(reply.Error(), text)
}
