package service

import (
	"context"
	"time"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/tap"
)

// receive bounds how long a call over gRPC may take to arrive, as ReadTimeout does over HTTP: else a client without a deadline
// could hold a thousand messages that are all but complete. It is a deadline of the call, unless the client has set a sooner one.
// A call that watches health goes on for as long as the client likes once its message is there (see received).
func receive(ctx context.Context, info *tap.Info) (context.Context, error) {
	if end, set := ctx.Deadline(); set && time.Until(end) <= readTimeout {
		return ctx, nil
	}
	// Nobody needs to call cancel: the context of the call is the parent, and that is canceled when the call has ended.
	if info.FullMethodName != healthv1.Health_Watch_FullMethodName {
		ctx, cancel := context.WithTimeout(ctx, readTimeout)
		_ = cancel
		return ctx, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	return context.WithValue(ctx, timerKey{}, time.AfterFunc(readTimeout, cancel)), nil
}

// timerKey is of the context of a call that has a timer in place of a deadline.
type timerKey struct{}

// received takes the bound from a call whose message is there.
func received(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if timer, has := stream.Context().Value(timerKey{}).(*time.Timer); has {
		stream = timed{stream, timer}
	}
	return handler(server, stream)
}

type timed struct {
	grpc.ServerStream

	timer *time.Timer
}

func (t timed) RecvMsg(message any) error {
	defer t.timer.Stop()
	return t.ServerStream.RecvMsg(message)
}
