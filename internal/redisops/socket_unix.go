//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package redisops

import (
	"errors"
	"syscall"
)

// nothingToRead tells whether the socket is open and nothing came.
func nothingToRead(fd uintptr) bool {
	var one [1]byte
	_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return errors.Is(err, syscall.EAGAIN)
}
