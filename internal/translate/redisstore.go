package translate

import (
	"regexp"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/policy"
)

var hostPort = regexp.MustCompile(`^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?):[1-9][0-9]{0,4}$`)

// RedisStore compiles a RedisStore. Each error has the path of the field and the remedy; the store is of use only when
// there are none.
func RedisStore(rs *v1.RedisStore) (policy.RedisStore, field.ErrorList) {
	spec, path := &rs.Spec, field.NewPath("spec")
	compiled := policy.RedisStore{Topology: string(spec.Topology), Addresses: spec.Addresses}
	var errs field.ErrorList

	if compiled.Topology == "" {
		compiled.Topology = string(v1.TopologyStandalone)
	}
	if compiled.Topology != string(v1.TopologyStandalone) {
		errs = append(errs, field.NotSupported(path.Child("topology"), spec.Topology, []v1.Topology{v1.TopologyStandalone}))
	}
	errs = append(errs, addresses(spec.Addresses, path.Child("addresses"))...)
	if spec.Auth != nil && !storeName.MatchString(spec.Auth.SecretRef.Name) {
		errs = append(errs, field.Invalid(path.Child("auth", "secretRef", "name"), spec.Auth.SecretRef.Name, "want the name of a Secret in the same namespace, or remove auth"))
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

func addresses(list []string, path *field.Path) field.ErrorList {
	if len(list) != 1 {
		return field.ErrorList{field.Invalid(path, list, "topology Standalone takes exactly one address, as host:port")}
	}
	at := path.Index(0)
	if len(list[0]) > maxTextBytes {
		return field.ErrorList{field.TooLong(at, field.OmitValueType{}, maxTextBytes)}
	}
	if !hostPort.MatchString(list[0]) {
		return field.ErrorList{field.Invalid(at, list[0], "want host:port, for example redis.shop.svc:6379 or [::1]:6379")}
	}
	port, err := strconv.Atoi(list[0][strings.LastIndexByte(list[0], ':')+1:])
	if err != nil || port > 65535 {
		return field.ErrorList{field.Invalid(at, list[0], "the port must be from 1 to 65535")}
	}
	return nil
}
