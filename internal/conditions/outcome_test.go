package conditions_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/penstock-dev/penstock/internal/conditions"
)

func TestOutcomesBecomeResults(t *testing.T) {
	broken := errors.New("etcd is on fire")
	for name, tt := range map[string]struct {
		outcome   error
		wantAfter time.Duration
		wantErr   error
	}{
		"success resyncs":          {nil, 30 * time.Second, nil},
		"stalling resyncs":         {fmt.Errorf("x: %w", &conditions.Stalling{Reason: "SecretInvalid"}), 30 * time.Second, nil},
		"waiting has its own time": {fmt.Errorf("x: %w", &conditions.Waiting{Reason: "Unreachable", After: time.Second}), time.Second, nil},
		"a conflict is met soon":   {apierrors.NewConflict(schema.GroupResource{Resource: "ratelimits"}, "a", nil), 100 * time.Millisecond, nil},
		"the rest is an error":     {broken, 0, broken},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := conditions.Result(tt.outcome, 30*time.Second)
			if got.RequeueAfter != tt.wantAfter || !errors.Is(err, tt.wantErr) {
				t.Errorf("got %v, %v", got, err)
			}
			if err != nil && got.RequeueAfter != 0 {
				t.Error("an error and RequeueAfter together")
			}
		})
	}
}
