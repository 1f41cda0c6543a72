package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	penstockv1 "github.com/penstock-dev/penstock/proto/penstock/v1"
)

// Whatever is sent, the answer is one, or says what is wrong with the request: nothing that a caller can send is an error of
// ours. What reached the engine is within its bounds.
func FuzzProtocols(f *testing.F) {
	valid := of(`,"cost":3,"id":"order-1","http":true`)
	f.Add("application/json", []byte(valid))
	f.Add("application/json", []byte(`{"subject":{"a":"b","a":"c"}}`))
	message := &penstockv1.CheckRequest{}
	if err := protojson.Unmarshal([]byte(valid), message); err != nil {
		f.Fatal(err)
	}
	binary, err := proto.Marshal(message)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("application/proto", binary)
	f.Add("application/grpc", append([]byte{0, 0, 0, 0, byte(len(binary))}, binary...))
	f.Add("application/connect+json", []byte{2, 0, 0, 0, 1, '{'})
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		r := httptest.NewRequest(http.MethodPost, Prefix+"Check", strings.NewReader(string(body)))
		r.Header["Content-Type"] = []string{kind}
		r.RemoteAddr = elsewhere
		asked := &fake{verdict: allowed}
		w := httptest.NewRecorder()
		door(asked).ServeHTTP(w, r)
		if w.Code >= http.StatusInternalServerError {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if asked.asked == "" {
			return
		}
		if c := asked.call; len(c.Policy) > maxNamespaceBytes+1+maxPolicyBytes || strings.Count(c.Policy, "/") != 1 || c.Cost < -1 || len(c.ID) > 128 {
			t.Errorf("the engine was asked %+v", c)
		}
	})
}
