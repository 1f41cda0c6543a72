package translate

import (
	"cmp"
	"regexp"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/policy"
)

var hostPort = regexp.MustCompile(`^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?):[1-9][0-9]{0,4}$`)

// What the schema says of names beside those of objects.
var (
	secretKey  = regexp.MustCompile(`^[-._a-zA-Z0-9]+$`)
	masterName = regexp.MustCompile(`^[-._A-Za-z0-9]+$`)
	serverName = regexp.MustCompile(`^([A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?|[0-9a-fA-F:.]+)$`)
)

// RedisStore compiles a RedisStore. Each error has the path of the field and the remedy; the store is of use only when
// there are none.
func RedisStore(rs *v1.RedisStore) (policy.RedisStore, field.ErrorList) {
	spec, path := &rs.Spec, field.NewPath("spec")
	compiled := policy.RedisStore{Topology: policy.Topology(cmp.Or(spec.Topology, v1.TopologyStandalone)), Addresses: spec.Addresses}
	var errs field.ErrorList

	errs = append(errs, topology(compiled.Topology, spec, path)...)
	for i, address := range spec.Addresses {
		errs = append(errs, checkAddress(address, path.Child("addresses").Index(i))...)
	}
	if spec.Sentinel != nil {
		compiled.MasterName = spec.Sentinel.MasterName
		errs = append(errs, checkText(spec.Sentinel.MasterName, maxTextBytes, masterName, path.Child("sentinel", "masterName"),
			"want the name that the Sentinels monitor, such as mymaster")...)
		errs = append(errs, auth(spec.Sentinel.Auth, path.Child("sentinel", "auth"))...)
	}
	errs = append(errs, auth(spec.Auth, path.Child("auth"))...)
	if spec.TLS != nil {
		compiled.TLS = &policy.RedisStoreTLS{ServerName: spec.TLS.ServerName, InsecureSkipVerify: isTrue(spec.TLS.InsecureSkipVerify)}
		errs = append(errs, encryption(spec.TLS, path.Child("tls"))...)
	}

	bounded := func(value, unset v1.Duration, shortest, longest time.Duration, path *field.Path) time.Duration {
		parsed, err := durationOr(value, unset, shortest, longest, path)
		if err != nil {
			errs = append(errs, err)
		}
		return parsed
	}
	timeouts, reconnect := path.Child("timeouts"), path.Child("reconnect")
	compiled.DialTimeout = bounded(spec.Timeouts.Dial, "1s", 100*time.Millisecond, 30*time.Second, timeouts.Child("dial"))
	compiled.CommandTimeout = bounded(spec.Timeouts.Command, "10ms", time.Millisecond, 10*time.Second, timeouts.Child("command"))
	compiled.MinBackoff = bounded(spec.Reconnect.MinBackoff, "50ms", time.Millisecond, time.Minute, reconnect.Child("minBackoff"))
	compiled.MaxBackoff = bounded(spec.Reconnect.MaxBackoff, "2s", time.Millisecond, 10*time.Minute, reconnect.Child("maxBackoff"))
	if len(errs) == 0 && compiled.MinBackoff > compiled.MaxBackoff {
		errs = append(errs, field.Invalid(reconnect.Child("minBackoff"), string(spec.Reconnect.MinBackoff),
			"minBackoff must not be longer than maxBackoff; lower minBackoff or raise maxBackoff"))
	}
	return compiled, errs
}

// topology checks what each topology wants of the rest of the spec.
func topology(t policy.Topology, spec *v1.RedisStoreSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	n, addresses := len(spec.Addresses), path.Child("addresses")
	switch t {
	case policy.TopologyStandalone:
		if n > 1 {
			errs = append(errs, field.Invalid(addresses, spec.Addresses, "topology Standalone takes exactly one address; remove the others"))
		}
	case policy.TopologyIndependent:
		if n != 3 && n != 5 && n != 7 {
			errs = append(errs, field.Invalid(addresses, spec.Addresses,
				"topology Independent takes 3, 5 or 7 addresses, so that there is a majority of them; add or remove some"))
		}
	case policy.TopologySentinel, policy.TopologyCluster:
	default:
		errs = append(errs, field.NotSupported(path.Child("topology"), spec.Topology,
			[]v1.Topology{v1.TopologyStandalone, v1.TopologySentinel, v1.TopologyCluster, v1.TopologyIndependent}))
	}
	if n == 0 {
		errs = append(errs, field.Required(addresses, "add the address of a server, as host:port"))
	}
	if n > maxAddresses {
		errs = append(errs, field.TooMany(addresses, n, maxAddresses))
	}
	switch sentinel := path.Child("sentinel"); {
	case t == policy.TopologySentinel && spec.Sentinel == nil:
		errs = append(errs, field.Required(sentinel.Child("masterName"),
			"topology Sentinel needs sentinel.masterName; add the name by which the Sentinels know the primary"))
	case t != policy.TopologySentinel && spec.Sentinel != nil:
		errs = append(errs, field.Forbidden(sentinel, "sentinel is for topology Sentinel only; remove it, or create a RedisStore with that topology"))
	}
	return errs
}

// maxAddresses is how many the schema takes.
const maxAddresses = 32

func auth(a *v1.Auth, path *field.Path) field.ErrorList {
	if a == nil {
		return nil
	}
	return secretName(a.SecretRef.Name, path.Child("secretRef", "name"), "auth")
}

func secretName(name string, path *field.Path, of string) field.ErrorList {
	if storeName.MatchString(name) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, name, "want the name of a Secret in the same namespace, or remove "+of)}
}

func encryption(tls *v1.TLS, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if ca := tls.CASecretRef; ca != nil {
		at := path.Child("caSecretRef")
		errs = append(errs, secretName(ca.Name, at.Child("name"), "caSecretRef")...)
		if ca.Key != "" {
			errs = append(errs, checkText(ca.Key, maxNameBytes, secretKey, at.Child("key"), "want the key of a Secret, such as ca.crt")...)
		}
		if isTrue(tls.InsecureSkipVerify) {
			errs = append(errs, field.Invalid(path, field.OmitValueType{},
				"insecureSkipVerify checks no certificate, so that caSecretRef has no effect; remove one of them"))
		}
	}
	if certificate := tls.ClientCertSecretRef; certificate != nil {
		errs = append(errs, secretName(certificate.Name, path.Child("clientCertSecretRef", "name"), "clientCertSecretRef")...)
	}
	if tls.ServerName != "" {
		errs = append(errs, checkText(tls.ServerName, maxNameBytes, serverName, path.Child("serverName"),
			"want the name or address that the certificates are for, without a port, such as redis.shop.svc")...)
	}
	return errs
}

// maxNameBytes is how long the name of a Secret or of a host may be.
const maxNameBytes = 253

func checkText(value string, most int, pattern *regexp.Regexp, path *field.Path, want string) field.ErrorList {
	switch {
	case len(value) > most:
		return field.ErrorList{field.TooLong(path, field.OmitValueType{}, most)}
	case !pattern.MatchString(value):
		return field.ErrorList{field.Invalid(path, value, want)}
	}
	return nil
}

func checkAddress(address string, path *field.Path) field.ErrorList {
	if errs := checkText(address, maxTextBytes, hostPort, path, "want host:port, for example redis.shop.svc:6379 or [::1]:6379"); len(errs) > 0 {
		return errs
	}
	port, err := strconv.Atoi(address[strings.LastIndexByte(address, ':')+1:])
	if err != nil || port > 65535 {
		return field.ErrorList{field.Invalid(path, address, "the port must be from 1 to 65535")}
	}
	return nil
}

func isTrue(b *bool) bool { return b != nil && *b }
