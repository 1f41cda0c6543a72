package doors

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"connectrpc.com/connect"

	"github.com/penstock-dev/penstock/client"
	"github.com/penstock-dev/penstock/internal/redisops"
	penstockv1 "github.com/penstock-dev/penstock/proto/penstock/v1"
	"github.com/penstock-dev/penstock/proto/penstock/v1/penstockv1connect"
)

// holder takes slots and gives them back.
type holder struct {
	acquire func(id string) (allowed bool, free int64, err error)
	release func(id string) (released bool, err error)
}

func holders(t *testing.T, w *world, q *question) map[string]holder {
	t.Helper()
	service := func(options ...connect.ClientOption) holder {
		return overService(t, penstockv1connect.NewLimiterServiceClient(w.http, "http://"+w.process.HTTP, options...), q)
	}
	return map[string]holder{
		"api-json":      service(connect.WithProtoJSON()),
		"api-connect":   service(),
		"api-grpc-web":  service(connect.WithGRPCWeb()),
		"client-remote": byLimiter(t, w.remote, q),
		"client-direct": byLimiter(t, w.direct, q),
		functionsDoor:   byFunctions(t, w, q),
	}
}

func overService(t *testing.T, service penstockv1connect.LimiterServiceClient, q *question) holder {
	of := checkRequest(q)
	return holder{
		func(id string) (bool, int64, error) {
			answer, err := service.AcquireSlot(t.Context(), &penstockv1.AcquireSlotRequest{
				Namespace: of.GetNamespace(), Policy: of.GetPolicy(), Subject: of.GetSubject(), SlotId: id,
			})
			return answer.GetAllowed(), answer.GetRemaining(), err
		},
		func(id string) (bool, error) {
			answer, err := service.ReleaseSlot(t.Context(), &penstockv1.ReleaseSlotRequest{
				Namespace: of.GetNamespace(), Policy: of.GetPolicy(), Subject: of.GetSubject(), SlotId: id,
			})
			return answer.GetReleased(), err
		},
	}
}

func byLimiter(t *testing.T, limiter client.Limiter, q *question) holder {
	request := client.SlotRequest{Policy: q.policy(), Subject: q.attributes()}
	return holder{
		func(id string) (bool, int64, error) {
			r := request
			r.ID = id
			slot, err := limiter.AcquireSlot(t.Context(), r)
			return slot.Allowed, slot.Remaining, err
		},
		func(id string) (bool, error) {
			r := request
			r.ID = id
			return limiter.ReleaseSlot(t.Context(), r)
		},
	}
}

func byFunctions(t *testing.T, w *world, q *question) holder {
	key, value := redisops.CounterKey(q.policy(), q.subject), q.subject[0].Value
	row := func(args ...any) ([]any, error) { return w.redis.Do(t.Context(), args...).Slice() }
	return holder{
		func(id string) (bool, int64, error) {
			got, err := row("FCALL", "penstock_slot_acquire", 1, key, q.policy(), id, "", value)
			if err != nil || len(got) < 3 {
				return false, 0, errors.Join(err, errors.New("no row"))
			}
			return got[0].(int64) == 1, got[2].(int64), nil
		},
		func(id string) (bool, error) {
			got, err := row("FCALL", "penstock_slot_release", 1, key, q.policy(), id, value)
			if err != nil || len(got) < 7 {
				return false, errors.Join(err, errors.New("no row"))
			}
			return got[6].(string) != "absent", nil
		},
	}
}

func TestSlotsAreTheSameForAllWhoTakeThem(t *testing.T) {
	w, byNamespace := startWith(t, map[string]map[string]string{"shop": slotPolicy})
	q := ofBob(byNamespace["shop"])
	all := holders(t, w, q)
	names := slices.Sorted(maps.Keys(all))
	slots := byNamespace["shop"][0].Limits[0].Requests

	for i := range slots {
		by := names[int(i)%len(names)]
		if allowed, free, err := all[by].acquire(fmt.Sprint("slot-", i)); err != nil || !allowed || free != slots-i-1 {
			t.Fatalf("slot %d by %s: allowed %t, %d free, %v", i, by, allowed, free, err)
		}
	}
	for i, by := range names {
		if allowed, free, err := all[by].acquire("one-more"); err != nil || allowed || free != 0 {
			t.Errorf("one more by %s: allowed %t, %d free, %v", by, allowed, free, err)
		}
		if status := underWay(t, w, q); status != http.StatusTooManyRequests {
			t.Errorf("the middleware answers %d while all slots are held", status)
		}
		// What one has taken, another one gives back, and a third one takes.
		id, other, third := fmt.Sprint("slot-", i), all[names[(i+1)%len(names)]], all[names[(i+2)%len(names)]]
		if released, err := other.release(id); err != nil || !released {
			t.Errorf("%s: released %t, %v", id, released, err)
		}
		if status := underWay(t, w, q); status != http.StatusOK {
			t.Errorf("the middleware answers %d while a slot is free", status)
		}
		if released, err := all[by].release(id); err != nil || released {
			t.Errorf("%s again: released %t, %v", id, released, err)
		}
		if allowed, _, err := third.acquire(id); err != nil || !allowed {
			t.Errorf("%s anew: allowed %t, %v", id, allowed, err)
		}
	}
}

// underWay gives the status of a request to a program that holds a slot for as long as it works on it.
func underWay(t *testing.T, w *world, q *question) int {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
	q.headers(r.Header.Set)
	recorder := httptest.NewRecorder()
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	client.ConcurrencyMiddleware(w.remote, q.policy(), client.WithHeaders("user"))(next).ServeHTTP(recorder, r)
	return recorder.Code
}
