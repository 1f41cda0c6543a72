package redisops

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
)

// ErrReplyRefused tells that what came over a connection is no reply of a Redis to us: it is, or says that it will be, too
// large or too deep. go-redis would make room for any size that is claimed, and end the process where there is none.
var ErrReplyRefused = errors.New("the reply is not one of Redis")

// ErrSpeaksTLS is an ErrMisconfigured: a server speaks TLS where none was asked for.
var ErrSpeaksTLS = errors.New("the server speaks TLS")

const (
	// maxReplyDepth is how deep arrays may stand in each other. The replies that are asked for here have at most 5.
	maxReplyDepth = 32
	// elementBytes is what an element costs in the memory of its array, beside its own bytes.
	elementBytes = 16
	// replyTypes are what a reply begins with.
	replyTypes = "+-:$*_,#!=(%~|>"
	// tlsAlert is what a server that speaks TLS says to somebody who does not.
	tlsAlert = 0x15
)

// replyMeter follows the replies on a connection as their bytes come, and refuses a size as soon as it is claimed.
type replyMeter struct {
	max int64
	// left of max until the next write. A subscription writes while it reads.
	left atomic.Int64

	// skip is how much of a string, with its line break, is still to come.
	skip int64
	// line is the beginning of the line that is coming, long enough for any size in reach.
	line []byte
	// known tells that a whole line came, so that it is likely a Redis that answers.
	known bool
	// open has, for each array around, how many elements are still to come.
	open []int64
}

func newReplyMeter(limit int) *replyMeter {
	m := &replyMeter{max: int64(limit), line: make([]byte, 0, 24)}
	m.renew()
	return m
}

func (m *replyMeter) renew() { m.left.Store(m.max) }

// read takes what came.
func (m *replyMeter) read(b []byte) error {
	for len(b) > 0 {
		if m.skip > 0 {
			n := min(m.skip, int64(len(b)))
			b = b[n:]
			if m.skip -= n; m.skip == 0 {
				m.elementEnds()
			}
			continue
		}
		if len(m.line) == 0 && strings.IndexByte(replyTypes, b[0]) < 0 {
			return m.foreign(b)
		}
		n := bytes.IndexByte(b, '\n') + 1
		ends := n > 0
		if !ends {
			n = len(b)
		}
		if err := m.spend(int64(n)); err != nil {
			return err
		}
		m.line = append(m.line, b[:min(n, cap(m.line)-len(m.line))]...)
		b = b[n:]
		if ends {
			if err := m.header(); err != nil {
				return err
			}
			m.line, m.known = m.line[:0], true
		}
	}
	return nil
}

// foreign is the error for what begins no reply. It does not hold what came, which may be anything.
func (m *replyMeter) foreign(b []byte) error {
	switch {
	case m.known:
		return fmt.Errorf("%w: it begins as none", ErrReplyRefused)
	case b[0] == tlsAlert:
		return fmt.Errorf("%w: %w: %w; set tls, or mend the port", ErrMisconfigured, ErrReplyRefused, ErrSpeaksTLS)
	case bytes.HasPrefix(b, []byte("HTTP/")):
		return fmt.Errorf("%w: %w: an HTTP server answers; mend the address", ErrMisconfigured, ErrReplyRefused)
	default:
		return fmt.Errorf("%w: %w: what answers is no Redis; mend the address", ErrMisconfigured, ErrReplyRefused)
	}
}

// header takes a whole line: a short reply, or the beginning of a string or an array.
func (m *replyMeter) header() error {
	switch m.line[0] {
	case '$', '=', '!':
		size, err := m.claimed()
		if err != nil || size < 0 {
			return err
		}
		m.skip = size + int64(len("\r\n"))
		return m.spend(size)
	case '*', '~', '>':
		return m.array(1, 0)
	case '%':
		return m.array(2, 0)
	case '|':
		// The reply that the attributes belong to follows them.
		return m.array(2, 1)
	default:
		m.elementEnds()
		return nil
	}
}

// array begins an array of so many elements for each one that is claimed.
func (m *replyMeter) array(each, further int64) error {
	size, err := m.claimed()
	if err != nil || size < 0 {
		return err
	}
	if err := m.spend(size); err != nil { // so that the next product is in range
		return err
	}
	if err := m.spend(size * each * elementBytes); err != nil {
		return err
	}
	if size = size*each + further; size == 0 {
		m.elementEnds()
		return nil
	}
	if m.open = append(m.open, size); len(m.open) > maxReplyDepth {
		return fmt.Errorf("%w: arrays stand more than %d deep in each other", ErrReplyRefused, maxReplyDepth)
	}
	return nil
}

// claimed reads the size in a line. Below 0 it is the null of a string or an array, which ends with its line.
func (m *replyMeter) claimed() (int64, error) {
	size, err := strconv.ParseInt(string(bytes.TrimRight(m.line[1:], "\r\n")), 10, 64)
	if err != nil || size < -1 || len(m.line) == cap(m.line) { // of a longer line the end is not known
		return 0, fmt.Errorf("%w: it claims a size that is none", ErrReplyRefused)
	}
	if size < 0 {
		m.elementEnds()
	}
	return size, nil
}

func (m *replyMeter) elementEnds() {
	for last := len(m.open) - 1; last >= 0; last-- {
		if m.open[last]--; m.open[last] > 0 {
			return
		}
		m.open = m.open[:last]
	}
}

func (m *replyMeter) spend(n int64) error {
	if m.left.Add(-n) < 0 {
		return fmt.Errorf("%w: it has, or claims, more than %d bytes", ErrReplyRefused, m.max)
	}
	return nil
}
