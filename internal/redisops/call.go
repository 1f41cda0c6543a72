package redisops

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// States of a call. Whoever moves it out of callWaiting decides whether it is sent.
const (
	callWaiting   = iota // in the queue
	callTaken            // in a batch
	callAbandoned        // its caller is gone
)

// call is one command on its way, and as a redis.Cmder it sees what go-redis does with it.
type call struct {
	*redis.Cmd

	state atomic.Int32
	// begun tells that go-redis asked for the arguments, which it does when it writes them. Until then no byte was sent,
	// whatever failed.
	begun bool
	// answered tells that go-redis gave it a result or an error. It gives none when the handshake of a connection gets an error
	// reply: then only the batch has the error.
	answered bool
	// repeats and redirects count how often it was sent again.
	repeats, redirects int
	// asking goes before it in its pipeline: the server is about to take over its slot, and serves it to those who ask so.
	asking *redis.Cmd
	// lane and pass tell who is to hear of the outcome. When moved, that is no longer the lane that the caller chose.
	lane  *lane
	pass  *period
	moved atomic.Bool

	done  chan struct{}
	timer *time.Timer
	value any
	err   error
}

func newCall() *call {
	c := &call{done: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
	c.timer.Stop()
	return c
}

// enter makes the call ready to be sent for the first time, by that lane.
func (c *call) enter(l *lane, pass *period, args []any) {
	c.state.Store(callWaiting)
	c.lane, c.pass = l, pass
	c.moved.Store(false)
	c.repeats, c.redirects, c.asking = 0, 0, nil
	c.prepare(args)
}

// prepare makes the call ready to be sent, for the first time or again.
func (c *call) prepare(args []any) {
	c.Cmd = redis.NewCmd(context.Background(), args...)
	c.begun, c.answered = false, false
}

// NoRetry keeps go-redis from repeating the command, in cluster mode too, where MaxRedirects would.
func (c *call) NoRetry() bool { return true }

// Args is what go-redis writes.
func (c *call) Args() []any {
	c.begun = true
	return c.Cmd.Args()
}

// SetErr is called with every reply, also with nil.
func (c *call) SetErr(err error) {
	c.answered = true
	c.Cmd.SetErr(err)
}

// outcome gives the result after the batch was executed with that error.
func (c *call) outcome(batchErr error) (any, error) {
	if c.answered {
		err := c.Cmd.Err()
		if c.asking != nil && c.asking.Err() != nil && Classify(err) == NotExecuted {
			err = c.asking.Err() // it says why the server did not take the command
		}
		if err == nil {
			return c.Cmd.Val(), nil
		}
		return nil, c.failure(err)
	}
	return nil, c.failure(batchErr)
}

func (c *call) failure(err error) error {
	var reply redis.Error
	switch {
	case c.answered && errors.Is(err, redis.Nil):
		return nil
	case c.answered && errors.As(err, &reply):
		return err
	case err == nil:
		return ErrUnknownOutcome
	case c.begun:
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	default:
		return fmt.Errorf("%w: %w", ErrNotExecuted, err)
	}
}

// abandon tells whether the call had not been taken yet, so that it will never be sent.
func (c *call) abandon() bool { return c.state.Swap(callAbandoned) == callWaiting }

func (c *call) take() bool { return c.state.CompareAndSwap(callWaiting, callTaken) }

// back lets the call wait to be sent once more, if its caller still waits.
func (c *call) back() bool { return c.state.CompareAndSwap(callTaken, callWaiting) }

// wanted tells whether the caller still waits.
func (c *call) wanted() bool { return c.state.Load() == callTaken }

func (c *call) finish(value any, err error) {
	c.value, c.err = value, err
	c.done <- struct{}{}
}
