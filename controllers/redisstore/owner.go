package redisstore

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
)

// cluster gives the id of this cluster: the uid of its namespace kube-system.
func (r *Reconciler) cluster(ctx context.Context) (string, error) {
	if id := r.clusterID.Load(); id != nil {
		return *id, nil
	}
	namespace := &corev1.Namespace{}
	if err := r.apiReader.Get(ctx, types.NamespacedName{Name: metav1.NamespaceSystem}, namespace); err != nil {
		return "", fmt.Errorf("get the namespace %s, whose uid is the id of the cluster: %w", metav1.NamespaceSystem, err)
	}
	id := string(namespace.UID)
	r.clusterID.Store(&id)
	return id, nil
}

// owner is what penstock:owner says of a store: the same names in another cluster are another owner.
func owner(cluster string, store *v1.RedisStore) string {
	return fmt.Sprintf("%s/%s/%s", cluster, store.Namespace, store.Name)
}

// lives tells whether an owner is a RedisStore of this cluster that is there to stay. Another one must not take its place:
// whoever may annotate a RedisStore in one namespace would end the limits of another.
func lives(cluster, owner string, stores map[types.NamespacedName]bool) bool {
	store, ours := strings.CutPrefix(owner, cluster+"/")
	namespace, name, _ := strings.Cut(store, "/")
	return ours && stores[types.NamespacedName{Namespace: namespace, Name: name}]
}

// conflict says who owns a Redis, and what to do about it. The store that owns it may use another Redis by now; since one
// server can have many addresses, only somebody with access to this one can tell.
func conflict(owner string, lives bool) string {
	if lives {
		return fmt.Sprintf("this Redis belongs to %q, a RedisStore of this cluster, and nothing was published; use another Redis, or delete that RedisStore, "+
			"or, if that one uses another Redis by now, delete the key %s in this one", owner, policystore.OwnerKey)
	}
	return fmt.Sprintf("this Redis belongs to %q and nothing was published; to take it over, annotate this RedisStore with %s: %s", owner, v1.AnnotationTakeOver, owner)
}
