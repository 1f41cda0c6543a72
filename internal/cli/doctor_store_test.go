package cli

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	v1 "github.com/penstock-dev/penstock/api/v1"
)

func TestAStoreOfTheClusterIsReachedAsTheOperatorDoes(t *testing.T) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "shop", Name: name} }
	store := func(name, secret string, addresses ...string) *v1.RedisStore {
		return &v1.RedisStore{ObjectMeta: meta(name), Spec: v1.RedisStoreSpec{
			Addresses: addresses, Auth: &v1.Auth{SecretRef: v1.LocalSecretReference{Name: secret}},
		}}
	}
	reader := fake.NewClientBuilder().WithScheme(scheme).WithObjects(
		store("good", "login", "redis:6379"), store("bad", "login", "nonsense"), store("locked", "absent", "redis:6379"),
		&corev1.Secret{ObjectMeta: meta("login"), Data: map[string][]byte{"username": []byte("penstock"), "password": []byte("hush-hush\n")}},
	).Build()

	found, err := locateIn(t.Context(), reader, types.NamespacedName{Namespace: "shop", Name: "good"})
	if err != nil || !found.reachable || found.owner != "/shop/good" {
		t.Fatalf("%+v, %v", found, err)
	}
	if c := found.config; c.Username != "penstock" || c.Password != "hush-hush" || !slices.Equal(c.Addresses, []string{"redis:6379"}) {
		t.Errorf("addresses %v, user %q", c.Addresses, c.Username)
	}
	if len(found.findings) != 1 || !strings.Contains(found.findings[0].String(), "newline") {
		t.Errorf("findings %v, want the newline", found.findings)
	}
	for name, want := range map[string]string{"bad": "spec.addresses[0]", "locked": "there is no Secret shop/absent"} {
		found, err := locateIn(t.Context(), reader, types.NamespacedName{Namespace: "shop", Name: name})
		if err != nil || found.reachable || len(found.findings) != 1 || !strings.Contains(strings.ToLower(found.findings[0].String()), strings.ToLower(want)) {
			t.Errorf("%s: %+v, %v; want %q", name, found, err, want)
		}
	}
	if _, err := locateIn(t.Context(), reader, types.NamespacedName{Namespace: "shop", Name: "nowhere"}); err == nil || !strings.Contains(err.Error(), "no RedisStore shop/nowhere") {
		t.Errorf("%v, want that it is not there", err)
	}
}
