package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// UnaryServerInterceptor is Middleware for unary calls of gRPC. The attributes are those of the request over HTTP that a
// call is: method is POST, path is /<package>.<service>/<method>, host the :authority, and header.<name> metadata.
//
// A denial is RESOURCE_EXHAUSTED with the details RetryInfo, which clients that retry wait for, and QuotaFailure. The headers
// that the policy asks for are metadata, in lower case. Where an error keeps the limit from being checked, the call is
// INTERNAL, or INVALID_ARGUMENT for one with a value that is too long.
func UnaryServerInterceptor(limiter Limiter, policy string, options ...CallOption) grpc.UnaryServerInterceptor {
	m := newCallLimit(limiter, policy, options)
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (answer any, err error) {
		set := func(md metadata.MD) error { return grpc.SetHeader(ctx, md) }
		err = m.charge(ctx, Call{FullMethod: info.FullMethod, Message: request}, set, func() error {
			answer, err = handler(ctx, request)
			return err
		})
		return answer, err
	}
}

// StreamServerInterceptor is UnaryServerInterceptor for streams: each is one request, and is asked about when it begins.
func StreamServerInterceptor(limiter Limiter, policy string, options ...CallOption) grpc.StreamServerInterceptor {
	m := newCallLimit(limiter, policy, options)
	return func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		return m.charge(stream.Context(), Call{FullMethod: info.FullMethod}, stream.SetHeader, func() error { return handler(server, stream) })
	}
}

// ConcurrencyUnaryServerInterceptor is ConcurrencyMiddleware for unary calls of gRPC, with the attributes and answers of
// UnaryServerInterceptor.
func ConcurrencyUnaryServerInterceptor(limiter Limiter, policy string, options ...CallOption) grpc.UnaryServerInterceptor {
	m := newCallLimit(limiter, policy, options)
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (answer any, err error) {
		set := func(md metadata.MD) error { return grpc.SetHeader(ctx, md) }
		err = m.hold(ctx, Call{FullMethod: info.FullMethod, Message: request}, set, func() error {
			answer, err = handler(ctx, request)
			return err
		})
		return answer, err
	}
}

// ConcurrencyStreamServerInterceptor is ConcurrencyUnaryServerInterceptor for streams: each holds a slot until it ends.
func ConcurrencyStreamServerInterceptor(limiter Limiter, policy string, options ...CallOption) grpc.StreamServerInterceptor {
	m := newCallLimit(limiter, policy, options)
	return func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		return m.hold(stream.Context(), Call{FullMethod: info.FullMethod}, stream.SetHeader, func() error { return handler(server, stream) })
	}
}

// callLimit is a policy in front of the handlers of gRPC.
type callLimit struct {
	guard
	callOptions
}

func newCallLimit(limiter Limiter, policy string, options []CallOption) *callLimit {
	m := &callLimit{}
	for _, o := range options {
		o.applyCall(&m.callOptions)
	}
	m.guard = guard{limiter: limiter, policy: policy, log: logger(m.callOptions.log)}
	return m
}

// charge asks about a call, tells its client by set, and lets serve have it if it may pass.
func (m *callLimit) charge(ctx context.Context, call Call, set func(metadata.MD) error, serve func() error) (err error) {
	request := m.request(ctx, call)
	v, failed := m.limiter.Check(ctx, request)
	if err := m.admit(ctx, &v, failed, set); err != nil {
		return err
	}
	if m.refund == nil || v.Mode == Unmatched {
		return serve()
	}
	code := codes.Internal // of a handler that panics
	defer func() {
		if m.refund(code) {
			m.giveBack(ctx, request)
		}
	}()
	err = serve()
	code = codeOf(err)
	return err
}

func (m *callLimit) request(ctx context.Context, call Call) Request {
	subject, lookup := m.about(ctx, call)
	request := Request{Policy: m.policy, Subject: subject, Lookup: lookup, HTTP: true}
	if m.cost != nil {
		request.Cost = m.cost(ctx, call)
	}
	if m.id != nil {
		request.ID = m.id(ctx, call)
	}
	if m.refund != nil && request.ID == "" {
		request.ID = rand.Text()
	}
	return request
}

// about gives the attributes of a call. The metadata is a copy.
func (m *callLimit) about(ctx context.Context, call Call) (map[string]string, func(string) (string, bool)) {
	var own map[string]string
	if m.subject != nil {
		own = m.subject(ctx, call)
	}
	address := ""
	if p, known := peer.FromContext(ctx); known && p.Addr != nil {
		address = p.Addr.String()
	}
	md, _ := metadata.FromIncomingContext(ctx)
	a := ofCall(address, call.FullMethod, md)
	return a.subject(&m.common, own), a.lookup()
}

// hold lets serve have a call while it holds a slot.
func (m *callLimit) hold(ctx context.Context, call Call, set func(metadata.MD) error, serve func() error) error {
	subject, lookup := m.about(ctx, call)
	slot, held, failed := m.acquire(ctx, SlotRequest{Policy: m.policy, Subject: subject, Lookup: lookup, HTTP: true, TTL: m.slotTTL})
	if err := m.admit(ctx, &slot.Verdict, failed, set); err != nil {
		return err
	}
	defer held.release()
	return serve()
}

// admit tells the client of the verdict, and gives the error of a call that may not pass.
func (m *callLimit) admit(ctx context.Context, v *Verdict, err error, set func(metadata.MD) error) error {
	m.note(ctx, err)
	if err != nil {
		return callFailure(ctx, err)
	}
	if v.HTTP == nil {
		v.HTTP = plainAnswer(v)
	}
	md := metadata.MD{}
	for name, values := range v.HTTP.Header {
		if name != "Content-Type" { // which is that of gRPC
			md[strings.ToLower(name)] = values
		}
	}
	// It fails only when the headers have been sent, by an interceptor before this one.
	_ = set(md)
	if v.Allowed {
		return nil
	}
	return denial(v)
}

// codeOf is the code that the client of a call gets for the error of its handler.
func codeOf(err error) codes.Code {
	if s, is := status.FromError(err); is {
		return s.Code()
	}
	return status.FromContextError(err).Code()
}

func callFailure(ctx context.Context, err error) error {
	argument, _ := errors.AsType[*ArgumentError](err)
	switch {
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	case errors.Is(err, ErrValueTooLong) && argument != nil:
		return status.Error(codes.InvalidArgument, argument.Error())
	default:
		return status.Error(codes.Internal, "the rate limit cannot be checked")
	}
}

// denial is the error of a call that is denied.
func denial(v *Verdict) error {
	seconds := max(1, (v.RetryAfter+time.Second-1)/time.Second)
	text := fmt.Sprintf("rate limit %s is exhausted; retry after %d s", v.Policy, seconds)
	if v.Mode == Degraded && !v.Known {
		text = fmt.Sprintf("rate limit %s cannot be checked now; retry after %d s", v.Policy, seconds)
	}
	plain := status.New(codes.ResourceExhausted, text)
	detailed, err := plain.WithDetails(
		&errdetails.RetryInfo{RetryDelay: durationpb.New(v.RetryAfter)},
		&errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{{Subject: v.Policy, Description: text}}},
	)
	if err != nil {
		return plain.Err() // not to be met: these messages can be encoded
	}
	return detailed.Err()
}
