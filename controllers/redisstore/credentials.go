package redisstore

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/conditions"
)

// The names of the default installation, for the message that tells how to let the operator read a Secret.
const (
	serviceAccount   = "penstock-operator"
	secretReaderRole = "penstock-secret-reader"
)

// credentials are what the Secret of a store says. They are never logged or shown.
type credentials struct {
	username, password string
	// trimmed names the keys whose value ended in a newline, which an editor left there.
	trimmed []string
}

// readCredentials reads the Secret of spec.auth, by name from the API server: Secrets are not watched, so that the operator needs no
// permission to list them. A store without auth has none.
func (r *Reconciler) readCredentials(ctx context.Context, store *v1.RedisStore) (credentials, error) {
	if store.Spec.Auth == nil {
		return credentials{}, nil
	}
	name := types.NamespacedName{Namespace: store.Namespace, Name: store.Spec.Auth.SecretRef.Name}
	secret := &corev1.Secret{}
	switch err := r.apiReader.Get(ctx, name, secret); {
	case apierrors.IsNotFound(err):
		return credentials{}, &conditions.Stalling{Reason: v1.ReasonSecretInvalid, Message: fmt.Sprintf("there is no Secret %s; create it with the keys %s (optional) and %s",
			name, v1.SecretKeyUsername, v1.SecretKeyPassword)}
	case apierrors.IsForbidden(err):
		return credentials{}, &conditions.Stalling{Reason: v1.ReasonSecretForbidden, Message: fmt.Sprintf(
			"the operator may not read Secret %s; allow it with: kubectl create rolebinding %s --namespace=%s --clusterrole=%s --serviceaccount=%s:%s",
			name, secretReaderRole, store.Namespace, secretReaderRole, r.operatorNamespace, serviceAccount)}
	case err != nil:
		return credentials{}, fmt.Errorf("get Secret %s: %w", name, err)
	}
	return parseCredentials(name, secret)
}

func parseCredentials(name types.NamespacedName, secret *corev1.Secret) (credentials, error) {
	var found credentials
	for _, key := range []struct {
		name string
		into *string
	}{{v1.SecretKeyUsername, &found.username}, {v1.SecretKeyPassword, &found.password}} {
		value := string(secret.Data[key.name])
		*key.into = strings.TrimRight(value, "\r\n")
		if *key.into != value {
			found.trimmed = append(found.trimmed, key.name)
		}
	}
	if found.password == "" {
		return credentials{}, &conditions.Stalling{Reason: v1.ReasonSecretInvalid, Message: fmt.Sprintf("Secret %s has no key %s, or an empty one; add it",
			name, v1.SecretKeyPassword)}
	}
	return found, nil
}
