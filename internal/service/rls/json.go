package rls

import (
	"errors"
	"io"
	"net/http"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/service/strictjson"
)

// JSONPath is where the JSON form of the door is.
const JSONPath = "/json"

// maxJSONBytes bounds a request in JSON.
const maxJSONBytes = 64 << 10

// JSON gives the door for who has no gRPC, to be served at JSONPath, as envoyproxy/ratelimit has it: a POST of a
// RateLimitRequest in JSON, of whatever content type, is answered by a RateLimitResponse in JSON. The status is 200 for OK,
// 429 for OVER_LIMIT, 400 for a bad request, 403 for a domain that the caller may not use, 405 for another method, 413 for more
// than 64 KiB, and 500 where there is no decision; then the body is a line of text. What gRPC has as headers to add are
// headers here, too, and a denial has no further body.
func (s *Server) JSON() http.Handler { return http.HandlerFunc(s.serveJSON) }

func (s *Server) serveJSON(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "want POST", http.StatusMethodNotAllowed)
		return
	}
	request, failure := readJSON(w, r)
	if failure != nil {
		http.Error(w, failure.text, failure.status)
		return
	}
	answered, err := s.answer(r.Context(), engine.DoorJSON, request)
	if err != nil {
		http.Error(w, status.Convert(err).Message(), httpStatus(err))
		return
	}
	body, err := protojson.Marshal(answered)
	if err != nil {
		http.Error(w, "the answer cannot be told in JSON", http.StatusInternalServerError)
		return
	}
	header := w.Header()
	for _, h := range answered.GetResponseHeadersToAdd() {
		header.Set(h.GetKey(), h.GetValue())
	}
	header.Set("Content-Type", "application/json")
	if answered.GetOverallCode() == ratelimitv3.RateLimitResponse_OVER_LIMIT {
		w.WriteHeader(http.StatusTooManyRequests)
	}
	_, _ = w.Write(body)
}

// jsonFailure is why a request cannot be read.
type jsonFailure struct {
	status int
	text   string
}

func readJSON(w http.ResponseWriter, r *http.Request) (*ratelimitv3.RateLimitRequest, *jsonFailure) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxJSONBytes))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, &jsonFailure{http.StatusRequestEntityTooLarge, "the body is larger than 64 KiB"}
	case err != nil:
		return nil, &jsonFailure{http.StatusBadRequest, "the body cannot be read"}
	}
	request := &ratelimitv3.RateLimitRequest{}
	if err := strictjson.Unmarshal(data, request); err != nil {
		return nil, &jsonFailure{http.StatusBadRequest, err.Error()}
	}
	return request, nil
}

// httpStatus is the status for an error of the door.
func httpStatus(err error) int {
	switch status.Code(err) {
	case codes.InvalidArgument:
		return http.StatusBadRequest
	case codes.PermissionDenied:
		return http.StatusForbidden
	default:
		return http.StatusInternalServerError
	}
}
