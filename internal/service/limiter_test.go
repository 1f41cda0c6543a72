package service

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/penstock-dev/penstock/internal/redisops/limit"
	penstockv1 "github.com/penstock-dev/penstock/proto/penstock/v1"
	"github.com/penstock-dev/penstock/proto/penstock/v1/penstockv1connect"
)

// checkJSON asks the LimiterService as curl would.
func (r *running) checkJSON(t *testing.T) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	response, err := client.Post("http://"+r.Addresses().HTTP+penstockv1connect.LimiterServiceCheckProcedure, "application/json",
		strings.NewReader(`{"namespace":"shop","policy":"api","subject":{"remote_address":"192.0.2.1"}}`))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// dialHTTP gives a connection of gRPC's own client to the HTTP port.
func (r *running) dialHTTP(t *testing.T) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(r.Addresses().HTTP, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func check(ctx context.Context, conn *grpc.ClientConn) (*penstockv1.CheckResponse, error) {
	answer := &penstockv1.CheckResponse{}
	err := conn.Invoke(ctx, penstockv1connect.LimiterServiceCheckProcedure, &penstockv1.CheckRequest{
		Namespace: "shop", Policy: "api", Subject: map[string]string{"remote_address": "192.0.2.1"},
	}, answer)
	return answer, err
}

func TestTheHTTPPortAnswersTheLimiterServiceInJSONAndGRPC(t *testing.T) {
	r := start(t, Config{}, allowAll)
	conn := r.dialHTTP(t)
	if code, body := r.checkJSON(t); code != http.StatusServiceUnavailable || !strings.Contains(body, `"NO_POLICIES"`) {
		t.Errorf("before there is a set: %d %s", code, body)
	}
	if _, err := check(t.Context(), conn); status.Code(err) != codes.Unavailable {
		t.Errorf("over gRPC before there is a set: %v, want Unavailable", err)
	}

	r.use(t)
	if code, body := r.checkJSON(t); code != http.StatusOK || !strings.Contains(body, `"remaining":"99"`) {
		t.Errorf("%d %s", code, body)
	}
	if got, err := check(t.Context(), conn); err != nil || !got.GetAllowed() || got.GetRemaining() != 99 || got.GetPolicy() != "shop/api" {
		t.Errorf("over gRPC: %v, %v", got, err)
	}
	if _, body := get(t, r.Addresses().Metrics, "/metrics"); !strings.Contains(body,
		`penstock_decisions_total{door="api",namespace="shop",outcome="allowed",policy="api"} 2`) {
		t.Error("the decisions are not counted as this door's")
	}
}

func TestTheHTTPPortSpeaksHTTP2WithoutTLS(t *testing.T) {
	r := start(t, Config{}, allowAll)
	r.use(t)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: protocols}}
	response, err := client.Get("http://" + r.Addresses().HTTP + "/auth/shop/api")
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK || response.ProtoMajor != 2 {
		t.Errorf("%d by %s, want 200 by HTTP/2", response.StatusCode, response.Proto)
	}
}

func TestACallOverHTTP2ThatIsUnderWayEndsBeforeTheService(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	r := start(t, Config{}, func(charges []limit.Charge) ([]limit.Row, error) {
		close(asked)
		<-answer
		return allowAll(charges)
	})
	r.use(t)
	underWay := make(chan error, 1)
	conn := r.dialHTTP(t)
	go func() { _, err := check(context.Background(), conn); underWay <- err }()
	<-asked
	_ = r.conn.Close() // ends the Watch of use
	r.stop()
	close(answer)
	if err := <-underWay; err != nil {
		t.Errorf("the call under way: %v, want an answer", err)
	}
	if err := <-r.ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	if strings.Contains(r.log.String(), "cut off") {
		t.Errorf("something was cut off:\n%s", r.log)
	}
}

func TestAPanicInTheLimiterServiceIsAnErrorWithoutDetails(t *testing.T) {
	r := start(t, Config{}, func([]limit.Charge) ([]limit.Row, error) { panic("a mistake of ours") })
	r.use(t)
	if code, body := r.checkJSON(t); code != http.StatusInternalServerError || strings.Contains(body, "mistake") {
		t.Errorf("%d %s, want 500 without details", code, body)
	}
	if _, err := check(t.Context(), r.dialHTTP(t)); err == nil || strings.Contains(err.Error(), "mistake") {
		t.Errorf("over gRPC: %v, want an error without details", err)
	}
	if _, body := get(t, r.Addresses().Metrics, "/metrics"); !strings.Contains(body, "penstock_panics_total 2\n") {
		t.Error("not counted")
	}
}
