package translate

import (
	"fmt"

	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/penstock-dev/penstock/api/v1"
)

// StoreNotFoundError tells that no RedisStore serves an object, and what to do about it.
type StoreNotFoundError struct {
	// Message names what was looked for, and the remedy.
	Message string
}

func (e *StoreNotFoundError) Error() string { return e.Message }

// ResolveStore finds the RedisStore of an object in a namespace: the one that its spec names (immutable, so it stands
// above all else), the one that was resolved before (sticky, so that a store created later moves nothing), else the
// RedisStore default of the namespace, else the one of the operator's namespace. It fails with *StoreNotFoundError.
func ResolveStore(namespace string, spec, resolved *v1.StoreReference, operatorNamespace string, exists func(types.NamespacedName) bool) (types.NamespacedName, error) {
	if spec != nil {
		store := named(spec, namespace)
		if !exists(store) {
			return store, &StoreNotFoundError{fmt.Sprintf("there is no RedisStore %s; create it, or create a new object with another spec.storeRef", store)}
		}
		return store, nil
	}
	if resolved != nil {
		store := named(resolved, namespace)
		if !exists(store) {
			return store, &StoreNotFoundError{fmt.Sprintf("RedisStore %s, which this object uses, is gone; create it again, or create a new object to use another store", store)}
		}
		return store, nil
	}
	own := types.NamespacedName{Namespace: namespace, Name: v1.DefaultStoreName}
	if exists(own) {
		return own, nil
	}
	shared := types.NamespacedName{Namespace: operatorNamespace, Name: v1.DefaultStoreName}
	if operatorNamespace != "" && exists(shared) {
		return shared, nil
	}
	return own, &StoreNotFoundError{fmt.Sprintf("there is no RedisStore %s; create it, or name another one in spec.storeRef of a new object", own)}
}

func named(ref *v1.StoreReference, namespace string) types.NamespacedName {
	if ref.Namespace != "" {
		namespace = ref.Namespace
	}
	return types.NamespacedName{Namespace: namespace, Name: ref.Name}
}

// permitted tells whether a store lets objects of a namespace in; if not, with the remedy.
func permitted(store types.NamespacedName, namespace string) (string, bool) {
	if store.Namespace == namespace {
		return "", true
	}
	return fmt.Sprintf("RedisStore %s serves objects of its own namespace only; create a RedisStore in namespace %s and use that one (without spec.storeRef: name it %s)",
		store, namespace, v1.DefaultStoreName), false
}
