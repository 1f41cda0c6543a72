package hostile

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// What has been sent to Redis is made there, whoever still waits: it is not sent again, and not taken back.
func TestWhatIsCanceledOnItsWayIsChargedOnce(t *testing.T) {
	t.Parallel()
	const callers = 20 // of each door
	server := publish(t)
	proxy := redistest.StartProxy(t, server.Addr)
	far := penstockd.Start(t, server, "--redis", "redis://"+proxy.Addr, "--dial-timeout", "30s")
	near := penstockd.Start(t, server)

	envoy, err := grpc.NewClient(far.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = envoy.Close() }()
	spend := func(ctx context.Context, address, method string) (int64, error) {
		body := `{"namespace":"shop","policy":"neighbour","subject":{"door":"canceled"}}`
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/penstock.v1.LimiterService/"+method, strings.NewReader(body))
		if err != nil {
			return 0, err
		}
		request.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return 0, err
		}
		defer func() { _ = response.Body.Close() }()
		var answer struct {
			Remaining int64 `json:",string"`
		}
		err = json.NewDecoder(response.Body).Decode(&answer)
		return answer.Remaining, err
	}

	untouched, err := spend(t.Context(), near.HTTP, "Peek")
	if err != nil {
		t.Fatal(err)
	}
	proxy.Delay(5 * time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			if left, err := spend(ctx, far.HTTP, "Check"); err == nil {
				t.Errorf("LimiterService answered that %d are left", left)
			}
		})
		all.Go(func() {
			answer, err := ratelimitv3.NewRateLimitServiceClient(envoy).ShouldRateLimit(ctx, rlsRequest("door", "canceled"))
			if status.Code(err) != codes.Canceled {
				t.Errorf("RLS answered %v, %v", answer, err)
			}
		})
	}
	left := untouched
	for deadline := time.Now().Add(patience); left != untouched-2*callers && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if left, err = spend(t.Context(), near.HTTP, "Peek"); err != nil {
			t.Fatal(err)
		}
	}
	if left != untouched-2*callers {
		t.Errorf("%d are left of %d after %d were sent to Redis", left, untouched, 2*callers)
	}
	cancel()
	all.Wait()
	proxy.Delay(0)
	proxy.Cut() // which loses the replies that are still on their way
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		left, err = spend(t.Context(), far.HTTP, "Check")
		if err == nil && left > 0 || time.Now().After(deadline) {
			break
		}
	}
	if err != nil || left != budget-2*callers-1 {
		t.Errorf("%d are left after one more, %v; want %d", left, err, budget-2*callers-1)
	}
}
