package main

import (
	"context"
	"fmt"

	"github.com/go-logr/logr"
)

// redisLog takes what go-redis prints by itself, such as a line per failed attempt to connect. The status of the store
// says it already, so it is for debugging only.
type redisLog struct{ log logr.Logger }

func (l redisLog) Printf(_ context.Context, format string, args ...any) {
	l.log.V(1).Info(fmt.Sprintf(format, args...))
}
