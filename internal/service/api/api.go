// Package api is the native door: penstock.v1.LimiterService over Connect, which is gRPC, gRPC-Web and JSON over plain HTTP
// at one address. What the calls, their fields and their errors mean is said in proto/penstock/v1/limiter.proto.
package api

import (
	"context"
	"crypto/rand"
	"net/http"

	"connectrpc.com/connect"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/service/callers"
	penstockv1 "github.com/penstock-dev/penstock/proto/penstock/v1"
	"github.com/penstock-dev/penstock/proto/penstock/v1/penstockv1connect"
)

// Prefix is where the door is.
const Prefix = "/" + penstockv1connect.LimiterServiceName + "/"

const (
	// maxMessageBytes bounds a request.
	maxMessageBytes = 64 << 10
	// envelopeBytes is what gRPC puts in front of a message.
	envelopeBytes = 5
)

// identity is the name of no compression.
const identity = "identity"

// Engine decides; engine.Engine does.
type Engine interface {
	DecidePolicy(ctx context.Context, door engine.Door, call engine.Call) (engine.Verdict, error)
	Peek(ctx context.Context, door engine.Door, call engine.Call) (engine.Verdict, error)
	Refund(ctx context.Context, door engine.Door, call engine.Call) (engine.Verdict, error)
	Credit(ctx context.Context, door engine.Door, call engine.Call) (engine.Verdict, error)
	Reset(ctx context.Context, door engine.Door, call engine.Call) (engine.Verdict, error)
	AcquireSlot(ctx context.Context, door engine.Door, call engine.SlotCall) (engine.Verdict, error)
	ReleaseSlot(ctx context.Context, door engine.Door, call engine.SlotCall) (engine.Verdict, error)
}

// Callers tells who asks; callers.Directory does.
type Callers interface {
	Of(ctx context.Context) callers.Caller
}

// New makes the door, to be served under Prefix, behind the handler that lets only known callers through.
func New(eng Engine, who Callers) http.Handler {
	_, service := penstockv1connect.NewLimiterServiceHandler(&server{engine: eng, callers: who},
		connect.WithReadMaxBytes(maxMessageBytes),
		connect.WithCompression("gzip", nil, nil),
		connect.WithCodec(jsonCodec{"json"}),
		connect.WithCodec(jsonCodec{"json; charset=utf-8"}),
	)
	errorWriter := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if compressed(r.Header) {
			_ = errorWriter.Write(w, r, compressionRefused())
			return
		}
		// Connect reads what is too large to its end, so that the connection can be used again: this is that end.
		r.Body = http.MaxBytesReader(w, r.Body, maxMessageBytes+envelopeBytes)
		service.ServeHTTP(w, r)
	})
}

// compressed tells whether a request says that its message is compressed. There is no compression here, of requests or of
// answers: messages are so small that it saves nothing, and connect unpacks to its end what is far too large.
func compressed(h http.Header) bool {
	for _, name := range []string{"Content-Encoding", "Grpc-Encoding"} {
		if encoding := h.Get(name); encoding != "" && encoding != identity {
			return true
		}
	}
	return false
}

// server is the door behind the protocols.
type server struct {
	engine  Engine
	callers Callers
}

// permit refuses a caller who may not use the policy, whether there is one of that name or not.
func (s *server) permit(ctx context.Context, policyName string) error {
	if !s.callers.Of(ctx).MayUsePolicy(policyName) {
		return forbidden()
	}
	return nil
}

func (s *server) Check(ctx context.Context, r *penstockv1.CheckRequest) (*penstockv1.CheckResponse, error) {
	call, err := charge(r, r.Cost, r.GetId())
	if err != nil {
		return nil, err
	}
	if err := s.permit(ctx, call.Policy); err != nil {
		return nil, err
	}
	v, err := s.engine.DecidePolicy(ctx, engine.DoorAPI, call)
	if err != nil {
		return nil, failure(err)
	}
	return checked(&v, r), nil
}

func (s *server) Peek(ctx context.Context, r *penstockv1.PeekRequest) (*penstockv1.PeekResponse, error) {
	call, err := charge(r, r.Cost, "")
	if err != nil {
		return nil, err
	}
	if err := s.permit(ctx, call.Policy); err != nil {
		return nil, err
	}
	v, err := s.engine.Peek(ctx, engine.DoorAPI, call)
	if err != nil {
		return nil, failure(err)
	}
	return peeked(&v), nil
}

func (s *server) Refund(ctx context.Context, r *penstockv1.RefundRequest) (*penstockv1.RefundResponse, error) {
	call, err := charge(r, r.Cost, r.GetId())
	if err != nil {
		return nil, err
	}
	if err := s.permit(ctx, call.Policy); err != nil {
		return nil, err
	}
	v, err := s.engine.Refund(ctx, engine.DoorAPI, call)
	if err != nil {
		return nil, failure(err)
	}
	return refunded(&v, r.GetId()), nil
}

func (s *server) Credit(ctx context.Context, r *penstockv1.CreditRequest) (*penstockv1.CreditResponse, error) {
	call, err := credit(r)
	if err != nil {
		return nil, err
	}
	if err := s.permit(ctx, call.Policy); err != nil {
		return nil, err
	}
	v, err := s.engine.Credit(ctx, engine.DoorAPI, call)
	if err != nil {
		return nil, failure(err)
	}
	return credited(&v, r.GetId()), nil
}

func (s *server) Reset(ctx context.Context, r *penstockv1.ResetRequest) (*penstockv1.ResetResponse, error) {
	call, err := charge(r, nil, "")
	if err != nil {
		return nil, err
	}
	if err := s.permit(ctx, call.Policy); err != nil {
		return nil, err
	}
	if !s.callers.Of(ctx).Administrative() {
		return nil, administrativeOnly()
	}
	v, err := s.engine.Reset(ctx, engine.DoorAPI, call)
	if err != nil {
		return nil, failure(err)
	}
	return reset(&v), nil
}

func (s *server) AcquireSlot(ctx context.Context, r *penstockv1.AcquireSlotRequest) (*penstockv1.AcquireSlotResponse, error) {
	id := r.GetSlotId()
	if id == "" {
		id = rand.Text()
	}
	call, err := slot(r, id, r.GetTtl())
	if err != nil {
		return nil, err
	}
	if err := s.permit(ctx, call.Policy); err != nil {
		return nil, err
	}
	v, err := s.engine.AcquireSlot(ctx, engine.DoorAPI, call)
	if err != nil {
		return nil, failure(err)
	}
	return acquired(&v, r, id), nil
}

func (s *server) ReleaseSlot(ctx context.Context, r *penstockv1.ReleaseSlotRequest) (*penstockv1.ReleaseSlotResponse, error) {
	call, err := slot(r, r.GetSlotId(), nil)
	if err != nil {
		return nil, err
	}
	if err := s.permit(ctx, call.Policy); err != nil {
		return nil, err
	}
	v, err := s.engine.ReleaseSlot(ctx, engine.DoorAPI, call)
	if err != nil {
		return nil, failure(err)
	}
	return released(&v, r.GetSlotId()), nil
}
