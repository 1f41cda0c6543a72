package translate_test

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/translate"
)

func TestAnAssemblyWithCompilationsIsTheSameAsWithout(t *testing.T) {
	requests := func(n int64) func(*v1.RateLimit) {
		return func(rl *v1.RateLimit) { rl.Spec.Limits[0].Requests = &n }
	}
	invalid := func(rl *v1.RateLimit) { rl.Spec.Limits = nil }
	paused := func(rl *v1.RateLimit) {
		requests(7)(rl)
		rl.Annotations = map[string]string{v1.AnnotationPaused: "true"}
	}
	var remembered translate.Compilations
	var published *policy.Set
	for step, objects := range [][]v1.RateLimit{
		{object("shop", "a", nil), object("shop", "b", nil)},
		{object("shop", "a", nil), object("shop", "b", nil)},
		// As after a restore of etcd: the generation is the same, and the content another.
		{object("shop", "a", requests(5)), object("shop", "b", nil)},
		{object("shop", "a", invalid), object("shop", "b", paused)},
		{object("shop", "a", invalid), object("shop", "b", requests(7))},
		{object("shop", "a", nil)},
		{object("shop", "b", nil), object("shop", "c", requests(5))},
	} {
		input := translate.Input{Store: shopDefault, StoreExists: existing("shop/default"), RateLimits: objects, Published: published}
		want := translate.Assemble(input)
		input.Compilations = &remembered
		got := translate.Assemble(input)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("step %d:\ngot  %+v\nwant %+v", step, got, want)
		}
		published = want.Set
	}
}

func BenchmarkAssemblyOf5000(b *testing.B) {
	objects := make([]v1.RateLimit, 5_000)
	for i := range objects {
		objects[i] = object("shop", fmt.Sprintf("policy-%d", i), func(rl *v1.RateLimit) {
			rl.CreationTimestamp = metav1.NewTime(time.Unix(int64(i), 0))
			rl.Spec.Descriptors = []v1.Descriptor{{Key: "user"}}
		})
	}
	input := translate.Input{Store: shopDefault, StoreExists: existing("shop/default"), RateLimits: objects}
	input.Published = translate.Assemble(input).Set
	for name, remembered := range map[string]*translate.Compilations{"anew": nil, "remembered": {}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			input.Compilations = remembered
			for b.Loop() {
				translate.Assemble(input)
			}
		})
	}
}
