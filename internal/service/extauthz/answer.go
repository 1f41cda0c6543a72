package extauthz

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/service/answers"
)

// maxDetailsBytes bounds the details of a gRPC status that go into a header: clients take 8 KiB of headers in all, and
// details are worth no answer that is lost.
const maxDetailsBytes = 4096

// headers are those of an answer, with room for as many as there are by default.
type headers struct {
	list  []*corev3.HeaderValueOption
	first [defaultHeaders]*corev3.HeaderValueOption
	room  [defaultHeaders]header
}

const defaultHeaders = 4

type header struct {
	option corev3.HeaderValueOption
	value  corev3.HeaderValue
}

// add appends a header. It takes the place of what upstream says of a limit of its own, since a client could not tell whose
// is whose.
func (h *headers) add(name, value string) {
	if h.list == nil {
		h.list = h.first[:0]
	}
	var next *header
	if len(h.list) < len(h.room) {
		next = &h.room[len(h.list)]
	} else {
		next = new(header)
	}
	next.value.Key, next.value.Value = answers.LowerName(name), value
	next.option.Header = &next.value
	next.option.AppendAction = corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
	h.list = append(h.list, &next.option)
}

// answer tells the verdict. What the policies of the request that denied are called, are those violated, or else the one
// that the verdict is of.
func answer(v *engine.Verdict, violated []string, asked *attributes) *authv3.CheckResponse {
	if v.Allowed {
		return allowed(v)
	}
	return denied(v, violated, asked.isGRPC())
}

// allowed is one allocation, but for the values of headers.
func allowed(v *engine.Verdict) *authv3.CheckResponse {
	if v.Mode == engine.Unmatched { // which has no headers
		return &authv3.CheckResponse{Status: &rpcstatus.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}}}
	}
	all := &struct {
		response authv3.CheckResponse
		status   rpcstatus.Status
		choice   authv3.CheckResponse_OkResponse
		ok       authv3.OkHttpResponse
		headers  headers
	}{}
	answers.Headers(all.headers.add, v)
	all.ok.ResponseHeadersToAdd = all.headers.list
	all.choice.OkResponse = &all.ok
	all.response.Status, all.response.HttpResponse = &all.status, &all.choice
	return &all.response
}

// denied tells the client when to come back, in the way of the protocol that it speaks.
func denied(v *engine.Verdict, violated []string, grpc bool) *authv3.CheckResponse {
	problem := answers.Denial(v, violated)
	if violated == nil {
		violated = []string{v.Name}
	}
	reason := &rpcstatus.Status{
		Code: int32(codes.ResourceExhausted), Message: problem.Detail,
		Details: details(quota(violated), &errdetails.RetryInfo{RetryDelay: durationpb.New(v.RetryAfter)}),
	}
	var h headers
	answers.Headers(h.add, v)
	return deny(reason, problem, &h, grpc)
}

// refused tells what is wrong with what the client sent. The name of an attribute that an expression puts together may hold
// bytes of the client's that are no UTF-8, and no message could carry them.
func refused(detail string, grpc bool) *authv3.CheckResponse {
	detail = strings.ToValidUTF8(detail, "\uFFFD")
	reason := &rpcstatus.Status{Code: int32(codes.InvalidArgument), Message: detail}
	return deny(reason, answers.Problem{Status: http.StatusBadRequest, Detail: detail}, &headers{}, grpc)
}

// deny makes the denial of a reason and of the problem that it is over HTTP.
func deny(reason *rpcstatus.Status, problem answers.Problem, h *headers, grpc bool) *authv3.CheckResponse {
	response := &authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: typev3.StatusCode(problem.Status)}}
	if grpc {
		// Envoy answers with the status that is among the headers, and takes the body for its message.
		h.add("grpc-status", strconv.Itoa(int(reason.GetCode())))
		if encoded := encode(reason); encoded != "" {
			h.add("grpc-status-details-bin", encoded)
		}
		response.Body = reason.GetMessage()
	} else {
		h.add("content-type", answers.ProblemContentType)
		response.Body = string(problem.JSON())
	}
	response.Headers = h.list
	return &authv3.CheckResponse{Status: reason, HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: response}}
}

// quota names what denied, and nothing of whom.
func quota(violated []string) *errdetails.QuotaFailure {
	failure := &errdetails.QuotaFailure{Violations: make([]*errdetails.QuotaFailure_Violation, len(violated))}
	for i, name := range violated {
		failure.Violations[i] = &errdetails.QuotaFailure_Violation{Subject: name, Description: "the rate limit denied the request"}
	}
	return failure
}

func details(messages ...proto.Message) []*anypb.Any {
	all := make([]*anypb.Any, 0, len(messages))
	for _, message := range messages {
		if detail, err := anypb.New(message); err == nil { // fails for text that is no UTF-8 only, which names are not
			all = append(all, detail)
		}
	}
	return all
}

// encode gives a status with details as gRPC has it in a header; empty without details, and with too many.
func encode(reason *rpcstatus.Status) string {
	if len(reason.GetDetails()) == 0 {
		return ""
	}
	bytes, err := proto.Marshal(reason)
	if err != nil || base64.RawStdEncoding.EncodedLen(len(bytes)) > maxDetailsBytes {
		return ""
	}
	return base64.RawStdEncoding.EncodeToString(bytes)
}
