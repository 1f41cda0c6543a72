package redisstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/conditions"
	"github.com/penstock-dev/penstock/internal/redisops"
)

// The names of the default installation, for the message that tells how to let the operator read a Secret.
const (
	serviceAccount   = "penstock-operator"
	secretReaderRole = "penstock-secret-reader"
)

// Secrets are what the Secrets of a store hold. They are never logged or shown.
type Secrets struct {
	redisops.Secrets
	// Trimmed names the values that ended in a newline, which an editor left there: "password of Secret shop/redis".
	Trimmed []string
}

// ReadSecrets reads the Secrets that a store names, each by its name: they are neither listed nor watched, so that the
// operator needs no permission to. A store that names none has none. What is wrong with a Secret is a *conditions.Stalling,
// which names it and the key, and never a value; operatorNamespace is for the remedy where reading is forbidden.
func ReadSecrets(ctx context.Context, reader client.Reader, store *v1.RedisStore, operatorNamespace string) (Secrets, error) {
	r := secretReader{reader: reader, store: store, operatorNamespace: operatorNamespace}
	if err := r.login(ctx, store.Spec.Auth, &r.found.Username, &r.found.Password); err != nil {
		return Secrets{}, err
	}
	if sentinel := store.Spec.Sentinel; sentinel != nil {
		if err := r.login(ctx, sentinel.Auth, &r.found.SentinelUsername, &r.found.SentinelPassword); err != nil {
			return Secrets{}, err
		}
	}
	if store.Spec.TLS != nil {
		if err := r.certificates(ctx, store.Spec.TLS); err != nil {
			return Secrets{}, err
		}
	}
	return r.found, nil
}

type secretReader struct {
	reader            client.Reader
	store             *v1.RedisStore
	operatorNamespace string
	found             Secrets
}

// get reads a Secret; wants says what it should have.
func (r *secretReader) get(ctx context.Context, name, wants string) (*corev1.Secret, error) {
	key := types.NamespacedName{Namespace: r.store.Namespace, Name: name}
	secret := &corev1.Secret{}
	switch err := r.reader.Get(ctx, key, secret); {
	case apierrors.IsNotFound(err):
		return nil, secretInvalid("there is no Secret %s; create it with %s", key, wants)
	case apierrors.IsForbidden(err):
		return nil, &conditions.Stalling{Reason: v1.ReasonSecretForbidden, Message: fmt.Sprintf(
			"the operator may not read Secret %s; allow it with: kubectl create rolebinding %s --namespace=%s --clusterrole=%s --serviceaccount=%s:%s",
			key, secretReaderRole, r.store.Namespace, secretReaderRole, r.operatorNamespace, serviceAccount)}
	case err != nil:
		return nil, fmt.Errorf("get Secret %s: %w", key, err)
	}
	return secret, nil
}

func (r *secretReader) login(ctx context.Context, auth *v1.Auth, username, password *string) error {
	if auth == nil {
		return nil
	}
	secret, err := r.get(ctx, auth.SecretRef.Name, fmt.Sprintf("the keys %s (optional) and %s", v1.SecretKeyUsername, v1.SecretKeyPassword))
	if err != nil {
		return err
	}
	*username = r.trim(secret, v1.SecretKeyUsername)
	*password = r.trim(secret, v1.SecretKeyPassword)
	if *password == "" {
		return lacks(secret, v1.SecretKeyPassword)
	}
	return nil
}

// trim gives a value without the newlines at its end.
func (r *secretReader) trim(secret *corev1.Secret, key string) string {
	value := string(secret.Data[key])
	trimmed := strings.TrimRight(value, "\r\n")
	if trimmed != value {
		r.found.Trimmed = append(r.found.Trimmed, fmt.Sprintf("%s of Secret %s", key, client.ObjectKeyFromObject(secret)))
	}
	return trimmed
}

func (r *secretReader) certificates(ctx context.Context, spec *v1.TLS) error {
	if ref := spec.CASecretRef; ref != nil {
		key := ref.Key
		if key == "" {
			key = v1.SecretKeyCA
		}
		secret, err := r.get(ctx, ref.Name, "the certificates of the authorities in the key "+key)
		if err != nil {
			return err
		}
		if len(secret.Data[key]) == 0 {
			return lacks(secret, key)
		}
		if !x509.NewCertPool().AppendCertsFromPEM(secret.Data[key]) {
			return secretInvalid("key %s of Secret %s has no certificate in PEM; put the certificates of the authorities there",
				key, client.ObjectKeyFromObject(secret))
		}
		r.found.CA = secret.Data[key]
	}
	if ref := spec.ClientCertSecretRef; ref != nil {
		secret, err := r.get(ctx, ref.Name, fmt.Sprintf("the keys %s and %s", v1.SecretKeyClientCert, v1.SecretKeyClientKey))
		if err != nil {
			return err
		}
		for _, key := range []string{v1.SecretKeyClientCert, v1.SecretKeyClientKey} {
			if len(secret.Data[key]) == 0 {
				return lacks(secret, key)
			}
		}
		certificate, key := secret.Data[v1.SecretKeyClientCert], secret.Data[v1.SecretKeyClientKey]
		if _, err := tls.X509KeyPair(certificate, key); err != nil {
			// Not the error: it may quote what stands there.
			return secretInvalid("keys %s and %s of Secret %s are no certificate and its private key in PEM; put both there, of one pair",
				v1.SecretKeyClientCert, v1.SecretKeyClientKey, client.ObjectKeyFromObject(secret))
		}
		r.found.ClientCert, r.found.ClientKey = certificate, key
	}
	return nil
}

func lacks(secret *corev1.Secret, key string) error {
	return secretInvalid("Secret %s has no key %s, or an empty one; add it", client.ObjectKeyFromObject(secret), key)
}

func secretInvalid(format string, args ...any) error {
	return &conditions.Stalling{Reason: v1.ReasonSecretInvalid, Message: fmt.Sprintf(format, args...)}
}
