package client

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// served is a service with a unary call and a stream, both of which end as they are told.
type served struct {
	healthv1.UnimplementedHealthServer

	calls int
	err   error
	hold  chan struct{}
}

func (s *served) Check(context.Context, *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	return &healthv1.HealthCheckResponse{}, s.end()
}

func (s *served) Watch(*healthv1.HealthCheckRequest, grpc.ServerStreamingServer[healthv1.HealthCheckResponse]) error {
	return s.end()
}

func (s *served) end() error {
	s.calls++
	if s.hold != nil {
		s.hold <- struct{}{}
		<-s.hold
	}
	return s.err
}

// serve gives a client of the service behind interceptors.
func serve(t *testing.T, s *served, options ...grpc.ServerOption) healthv1.HealthClient {
	t.Helper()
	server := grpc.NewServer(options...)
	healthv1.RegisterHealthServer(server, s)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(listener) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("Shop.Example:8081"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); server.Stop(); <-ended })
	return healthv1.NewHealthClient(conn)
}

// kinds are the two kinds of calls, with the options that put an interceptor before them.
var kinds = map[string]func(ctx context.Context, c healthv1.HealthClient) (metadata.MD, error){
	"unary": func(ctx context.Context, c healthv1.HealthClient) (header metadata.MD, err error) {
		_, err = c.Check(ctx, &healthv1.HealthCheckRequest{}, grpc.Header(&header))
		return header, err
	},
	"stream": func(ctx context.Context, c healthv1.HealthClient) (metadata.MD, error) {
		stream, err := c.Watch(ctx, &healthv1.HealthCheckRequest{})
		if err != nil {
			return nil, err
		}
		header, _ := stream.Header()
		if _, err = stream.Recv(); errors.Is(err, io.EOF) {
			err = nil
		}
		return header, err
	},
}

func limited(limiter Limiter, policy string, options ...CallOption) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(UnaryServerInterceptor(limiter, policy, options...)),
		grpc.StreamInterceptor(StreamServerInterceptor(limiter, policy, options...)),
	}
}

func TestADeniedCallSaysWhenToTryAgain(t *testing.T) {
	for form, limiter := range both(t) {
		for kind, call := range kinds {
			t.Run(form+" "+kind, func(t *testing.T) {
				s := &served{}
				user := func(context.Context, Call) map[string]string { return map[string]string{"remote_address": form + kind} }
				c := serve(t, s, limited(limiter, "shop/two", WithCallSubject(user))...)
				for i := range 2 {
					header, err := call(t.Context(), c)
					if err != nil || !slices.Equal(header["ratelimit-policy"], []string{`"two";q=2;w=60`}) || len(header["retry-after"]) != 0 {
						t.Errorf("call %d: %v with %v", i, err, header)
					}
				}
				header, err := call(t.Context(), c)
				failure := status.Convert(err)
				if failure.Code() != codes.ResourceExhausted || s.calls != 2 || len(header["retry-after"]) != 1 || len(header["ratelimit"]) != 1 {
					t.Fatalf("%v with %v after %d calls", err, header, s.calls)
				}
				if slices.ContainsFunc(header["content-type"], func(v string) bool { return v != "application/grpc" }) {
					t.Errorf("content-type %v", header["content-type"])
				}
				var retry, quota bool
				for _, detail := range failure.Details() {
					switch detail := detail.(type) {
					case *errdetails.RetryInfo:
						retry = detail.GetRetryDelay().AsDuration() > 50*time.Second
					case *errdetails.QuotaFailure:
						quota = detail.GetViolations()[0].GetSubject() == "shop/two"
					}
				}
				if !retry || !quota {
					t.Errorf("details %v", failure.Details())
				}
			})
		}
	}
}

func TestTheAttributesOfACall(t *testing.T) {
	for kind, call := range kinds {
		t.Run(kind, func(t *testing.T) {
			f := &fake{verdict: admitted}
			c := serve(t, &served{}, limited(f, "shop/two", WithHeaders("X-API-Key"), WithTrustedProxies(netip.MustParsePrefix("127.0.0.0/8")),
				WithCallSubject(func(_ context.Context, c Call) map[string]string {
					return map[string]string{"named": map[bool]string{true: "message", false: "none"}[c.Message != nil]}
				}),
				WithCallCost(func(context.Context, Call) int64 { return 7 }),
				WithCallID(func(context.Context, Call) string { return "order-1" }),
			)...)
			ctx := metadata.AppendToOutgoingContext(t.Context(), "x-api-key", "a", "x-api-key", "b", "x-team", "blue", "x-forwarded-for", "192.0.2.7")
			if _, err := call(ctx, c); err != nil {
				t.Fatal(err)
			}
			got := f.requests[0]
			want := map[string]string{
				"remote_address": "192.0.2.7", "method": "POST", "host": "shop.example", "header.x-api-key": "a,b",
				"path":  map[string]string{"unary": "/grpc.health.v1.Health/Check", "stream": "/grpc.health.v1.Health/Watch"}[kind],
				"named": map[string]string{"unary": "message", "stream": "none"}[kind],
			}
			for key, value := range want {
				if got.Subject[key] != value {
					t.Errorf("%s is %q, want %q", key, got.Subject[key], value)
				}
			}
			if team, found := got.Lookup("header.x-team"); team != "blue" || !found || got.Cost != 7 || got.ID != "order-1" || !got.HTTP {
				t.Errorf("asked %+v", got)
			}
		})
	}
}

func TestACallThatCannotBeCheckedFails(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want codes.Code
	}{
		"an unknown policy": {ErrUnknownPolicy, codes.Internal},
		"a long value":      {tooLong(&ArgumentError{Field: "subject", Problem: "the value of path: 300 bytes"}), codes.InvalidArgument},
	} {
		for kind, call := range kinds {
			t.Run(name+" "+kind, func(t *testing.T) {
				s := &served{}
				c := serve(t, s, limited(&fake{err: test.err}, "shop/two", WithLogger((&lines{}).logger()))...)
				if _, err := call(t.Context(), c); status.Code(err) != test.want || s.calls != 0 {
					t.Errorf("%v after %d calls, want %s", err, s.calls, test.want)
				}
			})
		}
	}
}

func TestACallThatFailedIsGivenBack(t *testing.T) {
	for kind, call := range kinds {
		for code, want := range map[codes.Code]int{codes.OK: 0, codes.NotFound: 0, codes.Unavailable: 1} {
			t.Run(kind+" "+code.String(), func(t *testing.T) {
				f := &fake{verdict: admitted}
				c := serve(t, &served{err: status.Error(code, "so")}, limited(f, "shop/two",
					WithCallRefund(func(c codes.Code) bool { return c == codes.Unavailable }))...)
				if _, err := call(t.Context(), c); status.Code(err) != code {
					t.Fatal(err)
				}
				if len(f.refunds) != want || want > 0 && (f.refunds[0].ID == "" || f.refunds[0].ID != f.requests[0].ID || f.done[0] != nil) {
					t.Errorf("refunds %+v, want %d", f.refunds, want)
				}
			})
		}
	}
}

func TestACallThatRanOutOfTimeHasTheCodeThatItsClientGets(t *testing.T) {
	for kind, call := range kinds {
		t.Run(kind, func(t *testing.T) {
			f, asked := &fake{verdict: admitted}, codes.OK
			c := serve(t, &served{err: context.DeadlineExceeded}, limited(f, "shop/two",
				WithCallRefund(func(c codes.Code) bool { asked = c; return false }))...)
			if _, err := call(t.Context(), c); status.Code(err) != codes.DeadlineExceeded || asked != codes.DeadlineExceeded {
				t.Errorf("%v, asked about %s", err, asked)
			}
		})
	}
}

func TestACallHoldsASlotUntilItEnds(t *testing.T) {
	for form, limiter := range both(t) {
		for kind, call := range kinds {
			t.Run(form+" "+kind, func(t *testing.T) {
				s := &served{hold: make(chan struct{})}
				c := serve(t, s,
					grpc.UnaryInterceptor(ConcurrencyUnaryServerInterceptor(limiter, "shop/slots")),
					grpc.StreamInterceptor(ConcurrencyStreamServerInterceptor(limiter, "shop/slots")))
				done := make(chan error)
				go func() { _, err := call(t.Context(), c); done <- err }()
				<-s.hold
				if _, err := call(t.Context(), c); status.Code(err) != codes.ResourceExhausted {
					t.Errorf("beside it: %v", err)
				}
				s.hold <- struct{}{}
				if err := <-done; err != nil {
					t.Error(err)
				}
				go func() { <-s.hold; s.hold <- struct{}{} }()
				if _, err := call(t.Context(), c); err != nil {
					t.Errorf("after it: %v", err)
				}
			})
		}
	}
}

func TestADegradedDenialSaysSo(t *testing.T) {
	f := &fake{verdict: undecided("shop/two", "", Deny, CauseService, true)}
	c := serve(t, &served{}, limited(f, "shop/two")...)
	header, err := kinds["unary"](t.Context(), c)
	if want := "rate limit shop/two cannot be checked now; retry after 1 s"; status.Convert(err).Message() != want {
		t.Errorf("%v, want %q", err, want)
	}
	if !slices.Equal(header["x-penstock-degraded"], []string{"service"}) || !slices.Equal(header["retry-after"], []string{"1"}) {
		t.Errorf("metadata %v", header)
	}
}
