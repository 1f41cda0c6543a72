package api

import (
	"encoding/binary"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	penstockv1 "github.com/penstock-dev/penstock/proto/penstock/v1"
	"github.com/penstock-dev/penstock/proto/penstock/v1/penstockv1connect"
)

var procedures = []string{
	penstockv1connect.LimiterServiceCheckProcedure, penstockv1connect.LimiterServicePeekProcedure,
	penstockv1connect.LimiterServiceRefundProcedure, penstockv1connect.LimiterServiceCreditProcedure,
	penstockv1connect.LimiterServiceResetProcedure, penstockv1connect.LimiterServiceAcquireSlotProcedure,
	penstockv1connect.LimiterServiceReleaseSlotProcedure,
}

var contentTypes = []string{
	"application/proto", "application/json", "application/grpc", "application/grpc+json", "application/grpc-web", "application/grpc-web+json",
}

// Whatever bytes come to a method in whatever protocol: the engine is asked or there is an error, and no answer is an error of ours.
func FuzzMethods(f *testing.F) {
	request, err := proto.Marshal(&penstockv1.CheckRequest{
		Namespace: "shop", Policy: "api-per-ip", Subject: map[string]string{"remote_address": "192.0.2.1"}, Id: "order-1",
	})
	if err != nil {
		f.Fatal(err)
	}
	framed := func(flags byte, length int, message string) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{flags}, uint32(length)), message...)
	}
	for method := range procedures {
		for contentType, name := range contentTypes {
			body := of("")
			if !strings.Contains(name, "json") {
				body = string(request)
			}
			if strings.Contains(name, "grpc") {
				body = string(framed(0, len(body), body))
			}
			f.Add(uint8(method), uint8(contentType), []byte(body))
		}
	}
	for _, seed := range [][]byte{
		framed(0, 1<<31-1, ""), framed(1, 2, "\x1f\x8b"), framed(2, 2, "{}"), framed(0x80, 0, ""), append(framed(0, 0, ""), framed(0, 0, "")...),
		{0}, nil, request[:len(request)-1], append(slices.Clone(request), "\x52\x03abc"...), []byte(strings.Repeat("\x0b", 20_000)),
	} {
		for contentType := range contentTypes {
			f.Add(uint8(0), uint8(contentType), seed)
		}
	}
	f.Fuzz(func(t *testing.T, method, contentType uint8, body []byte) {
		path, kind := procedures[int(method)%len(procedures)], contentTypes[int(contentType)%len(contentTypes)]
		r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(string(body)))
		r.Header.Set("Content-Type", kind)
		r.RemoteAddr, r.Host = loopback, "localhost:8080"
		if strings.HasPrefix(kind, "application/grpc") {
			r.ProtoMajor, r.ProtoMinor, r.Proto = 2, 0, "HTTP/2.0"
		}
		w := httptest.NewRecorder()
		asked := &fake{verdict: allowed}
		door(asked).ServeHTTP(w, r)
		switch w.Code {
		case http.StatusOK, http.StatusBadRequest, http.StatusTooManyRequests:
		default:
			t.Fatalf("%s of %s: %d %s", path, kind, w.Code, w.Body)
		}
		if w.Code != http.StatusOK && asked.asked != "" {
			t.Fatalf("%s of %s: %d %s, and the engine was asked for %q", path, kind, w.Code, w.Body, asked.asked)
		}
		// gRPC calls a frame that is none an internal error, too.
		const internal, unknown = "13", "2"
		status, message := w.Result().Trailer.Get("Grpc-Status"), w.Result().Trailer.Get("Grpc-Message")
		if status == unknown || (status == internal && !strings.HasPrefix(message, "protocol error: ")) {
			t.Fatalf("%s of %s: the status %s, %q", path, kind, status, message)
		}
	})
}
