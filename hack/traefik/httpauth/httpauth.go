// Package httpauth stands in for Traefik's fork of github.com/abbot/go-http-auth, which is not to be had everywhere. It
// authenticates nobody: the tests use neither Basic nor Digest.
package httpauth

import "net/http"

// SecretProvider gives the secret of a user.
type SecretProvider func(user, realm string) string

// CheckSecret refuses every password.
func CheckSecret(_, _ string) bool { return false }

// BasicAuth refuses everybody.
type BasicAuth struct {
	Realm   string
	Secrets SecretProvider
}

// RequireAuth refuses.
func (*BasicAuth) RequireAuth(w http.ResponseWriter, _ *http.Request) { refuse(w) }

// DigestAuth refuses everybody.
type DigestAuth struct{}

// NewDigestAuthenticator makes one.
func NewDigestAuthenticator(string, SecretProvider) *DigestAuth { return &DigestAuth{} }

// CheckAuth knows nobody.
func (*DigestAuth) CheckAuth(*http.Request) (username string, info *string) { return "", nil }

// RequireAuth refuses.
func (*DigestAuth) RequireAuth(w http.ResponseWriter, _ *http.Request) { refuse(w) }

// RequireAuthStale refuses.
func (*DigestAuth) RequireAuthStale(w http.ResponseWriter, _ *http.Request) { refuse(w) }

// DigestAuthParams finds none.
func DigestAuthParams(string) map[string]string { return nil }

func refuse(w http.ResponseWriter) {
	http.Error(w, "this Traefik was built without Basic and Digest authentication", http.StatusUnauthorized)
}
