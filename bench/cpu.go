package main

import (
	"errors"
	"os"
	"time"

	"github.com/penstock-dev/penstock/bench/internal/machine"
)

// usage is CPU time at one moment, or spent between two.
type usage struct {
	server, redis, client, machine, stolen time.Duration
}

// readUsage reads all clocks as near to each other as it can.
func readUsage(serverPID, redisPID int) (usage, error) {
	server, errServer := machine.CPUTime(serverPID)
	redis, errRedis := machine.CPUTime(redisPID)
	client, errClient := machine.CPUTime(os.Getpid())
	whole, errWhole := machine.ReadTime()
	return usage{server: server, redis: redis, client: client, machine: whole.Busy, stolen: whole.Stolen},
		errors.Join(errServer, errRedis, errClient, errWhole)
}

// since gives what was spent from then to u.
func (u usage) since(then usage) usage {
	return usage{
		server: u.server - then.server, redis: u.redis - then.redis, client: u.client - then.client,
		machine: u.machine - then.machine, stolen: u.stolen - then.stolen,
	}
}

// foreign is what the machine spent on anything but this bench, or withheld from it.
func (u usage) foreign() time.Duration {
	return max(0, u.machine-u.server-u.redis-u.client) + u.stolen
}

// foreignShare is the foreign part of what so many cores could do in that time: 0 to 1.
func (u usage) foreignShare(elapsed time.Duration, cores int) float64 {
	return min(1, u.foreign().Seconds()/(elapsed.Seconds()*float64(cores)))
}
