package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// DefaultStoreName is the RedisStore that policies without a storeRef use.
const DefaultStoreName = "default"

// Keys of the Secrets that a store names.
const (
	// SecretKeyUsername is optional; without it the ACL user "default" is meant.
	SecretKeyUsername = "username"
	// SecretKeyPassword is required.
	SecretKeyPassword = "password"
	// SecretKeyCA is the key of caSecretRef where it names no other.
	SecretKeyCA = "ca.crt"
	// SecretKeyClientCert and SecretKeyClientKey are what a Secret of type kubernetes.io/tls has.
	SecretKeyClientCert = "tls.crt"
	SecretKeyClientKey  = "tls.key"
)

// Topology is how the servers of a store are arranged.
//
// +kubebuilder:validation:Enum=Standalone;Sentinel;Cluster;Independent
type Topology string

const (
	// TopologyStandalone is one server, or one address that always leads to the primary.
	TopologyStandalone Topology = "Standalone"
	// TopologySentinel is a primary and its replicas, watched by Sentinels, which tell who is the primary.
	TopologySentinel Topology = "Sentinel"
	// TopologyCluster is a Redis Cluster: several primaries that share the keys.
	TopologyCluster Topology = "Cluster"
	// TopologyIndependent is an odd number of servers that know nothing of each other, for quorum locks only.
	TopologyIndependent Topology = "Independent"
)

// LocalSecretReference names a Secret in the namespace of the object that refers to it.
type LocalSecretReference struct {
	// name of the Secret.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",message="want the name of a Secret: lower-case letters, digits, hyphens and dots, with a letter or digit at both ends, such as redis-auth"
	Name string `json:"name,omitempty"`
}

// SecretKeyReference names a key of a Secret in the namespace of the object that refers to it.
type SecretKeyReference struct {
	// name of the Secret.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",message="want the name of a Secret: lower-case letters, digits, hyphens and dots, with a letter or digit at both ends, such as redis-auth"
	Name string `json:"name,omitempty"`

	// key in the Secret.
	//
	// +optional
	// +default="ca.crt"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[-._a-zA-Z0-9]+$')",message="want the key of a Secret: letters, digits, hyphens, dots and underscores, such as ca.crt"
	Key string `json:"key,omitempty"`
}

// Auth is how Penstock authenticates to Redis.
type Auth struct {
	// secretRef names a Secret in the same namespace with the keys username (optional) and password. It is read again on
	// every resync and after an authentication error, so that credentials are rotated without a restart.
	//
	// +required
	SecretRef LocalSecretReference `json:"secretRef,omitzero"`
}

// Sentinel says how the Sentinels in spec.addresses are asked for the primary.
type Sentinel struct {
	// masterName is the name by which the Sentinels know the primary, as in their "sentinel monitor".
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.matches('^[-._A-Za-z0-9]+$')",message="want the name that the Sentinels monitor: letters, digits, hyphens, dots and underscores, such as mymaster"
	MasterName string `json:"masterName,omitempty"`

	// auth is how Penstock authenticates to the Sentinels, which have users of their own. Omitted: not at all; spec.auth is
	// for the servers.
	//
	// +optional
	Auth *Auth `json:"auth,omitempty"`
}

// TLS is how connections are encrypted, those to Sentinels included. {} trusts what the system of Penstock's image trusts.
//
// +kubebuilder:validation:XValidation:rule="!has(self.insecureSkipVerify) || !self.insecureSkipVerify || !has(self.caSecretRef)",message="insecureSkipVerify checks no certificate, so that caSecretRef has no effect; remove one of them"
type TLS struct {
	// caSecretRef names the certificates, in PEM, of the authorities that are trusted, and no others are. Omitted: those
	// that the system trusts. It is read again on every resync and after an error of TLS.
	//
	// +optional
	CASecretRef *SecretKeyReference `json:"caSecretRef,omitempty"`

	// clientCertSecretRef names a Secret with the keys tls.crt and tls.key, in PEM, by which Penstock shows who it is.
	// Omitted: it shows nothing.
	//
	// +optional
	ClientCertSecretRef *LocalSecretReference `json:"clientCertSecretRef,omitempty"`

	// serverName is whom the certificates of the servers must be for. Omitted: the host of each address.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?$') || self.matches('^[0-9a-fA-F:.]+$')",message="want the name or address that the certificates are for, without a port, such as redis.shop.svc"
	ServerName string `json:"serverName,omitempty"`

	// insecureSkipVerify takes any certificate: encrypted, but to whomever answers. For trials only.
	//
	// +optional
	InsecureSkipVerify *bool `json:"insecureSkipVerify,omitempty"`
}

// Timeouts bound the waiting for Redis.
type Timeouts struct {
	// dial bounds the opening of a connection, and one batch of commands on the wire: 100ms to 30s.
	//
	// +optional
	// +default="1s"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || duration(self) >= duration('100ms') && duration(self) <= duration('30s')",message="dial must be from 100ms to 30s"
	Dial Duration `json:"dial,omitempty"`

	// command is how long a caller waits for a decision: 1ms to 10s. Keep it under the timeout of the proxies that ask
	// (Envoy: 20ms).
	//
	// +optional
	// +default="10ms"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || duration(self) >= duration('1ms') && duration(self) <= duration('10s')",message="command must be from 1ms to 10s"
	Command Duration `json:"command,omitempty"`
}

// Reconnect bounds the pauses between attempts to reach Redis again. It is never on the decision path.
//
// +kubebuilder:validation:XValidation:rule="!has(self.minBackoff) || !has(self.maxBackoff) || !self.minBackoff.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || !self.maxBackoff.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || duration(self.minBackoff) <= duration(self.maxBackoff)",message="minBackoff must not be longer than maxBackoff; lower minBackoff or raise maxBackoff"
type Reconnect struct {
	// minBackoff is the first pause: 1ms to 1m.
	//
	// +optional
	// +default="50ms"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || duration(self) >= duration('1ms') && duration(self) <= duration('1m')",message="minBackoff must be from 1ms to 1m"
	MinBackoff Duration `json:"minBackoff,omitempty"`

	// maxBackoff is the longest pause: 1ms to 10m.
	//
	// +optional
	// +default="2s"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || duration(self) >= duration('1ms') && duration(self) <= duration('10m')",message="maxBackoff must be from 1ms to 10m"
	MaxBackoff Duration `json:"maxBackoff,omitempty"`
}

// RedisStoreSpec says where state lives.
//
// +kubebuilder:validation:XValidation:rule="self.topology != 'Standalone' || size(self.addresses) == 1",message="topology Standalone takes exactly one address; remove the others"
// +kubebuilder:validation:XValidation:rule="self.topology != 'Independent' || size(self.addresses) in [3, 5, 7]",message="topology Independent takes 3, 5 or 7 addresses, so that there is a majority of them; add or remove some"
// +kubebuilder:validation:XValidation:rule="self.topology != 'Sentinel' || has(self.sentinel)",message="topology Sentinel needs sentinel.masterName; add the name by which the Sentinels know the primary"
// +kubebuilder:validation:XValidation:rule="self.topology == 'Sentinel' || !has(self.sentinel)",message="sentinel is for topology Sentinel only; remove it, or create a RedisStore with that topology"
type RedisStoreSpec struct {
	// topology is how the servers are arranged: Standalone is one server, or one address that always leads to the primary;
	// Sentinel a primary that Sentinels tell of; Cluster a Redis Cluster; Independent 3, 5 or 7 servers that know nothing of
	// each other, for quorum locks only. Immutable.
	//
	// +optional
	// +default="Standalone"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="topology is immutable; create a new RedisStore"
	Topology Topology `json:"topology,omitempty"`

	// addresses as host:port: of the server (Standalone), of the Sentinels (Sentinel), of some of the nodes (Cluster), or of
	// all servers (Independent).
	//
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=3
	// +kubebuilder:validation:items:MaxLength=256
	// +kubebuilder:validation:items:XValidation:rule=`self.matches(r'^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?):[1-9][0-9]{0,4}$')`,message="want host:port, such as redis.shop.svc:6379 or [fd00::1]:6379, without a scheme, credentials or database"
	// +kubebuilder:validation:items:XValidation:rule="!self.matches(':[0-9]{1,5}$') || int(self.split(':')[size(self.split(':')) - 1]) <= 65535",message="the port must be from 1 to 65535"
	Addresses []string `json:"addresses,omitempty"`

	// sentinel is required with topology Sentinel, and only taken there.
	//
	// +optional
	Sentinel *Sentinel `json:"sentinel,omitempty"`

	// auth is how Penstock authenticates to the servers. Omitted: not at all.
	//
	// +optional
	Auth *Auth `json:"auth,omitempty"`

	// tls encrypts all connections. Omitted: they are plain.
	//
	// +optional
	TLS *TLS `json:"tls,omitempty"`

	// timeouts bound the waiting for Redis.
	//
	// +optional
	// +default={}
	Timeouts Timeouts `json:"timeouts,omitempty,omitzero"`

	// reconnect bounds the pauses between attempts to reach Redis again.
	//
	// +optional
	// +default={}
	Reconnect Reconnect `json:"reconnect,omitempty,omitzero"`
}

// RedisStoreStatus is what the operator observed of a store.
type RedisStoreStatus struct {
	// conditions are Reachable, LibraryLoaded and Ready (both); EvictionSafe and DurabilitySafe advise. Degraded, Paused,
	// Reconciling and Stalled are present only while True.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	// +patchMergeKey=type
	// +patchStrategy=merge
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty" patchStrategy:"merge" patchMergeKey:"type"`

	// observedGeneration is the generation that this status speaks of.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// engine is the kind of server: redis or valkey.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Engine string `json:"engine,omitempty"`

	// version of the servers; the oldest, where the primaries differ.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Version string `json:"version,omitempty"`

	// identity of the data set: the primary's master_replid, or a digest of those of several primaries. It changes on a
	// restart and on a failover.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Identity string `json:"identity,omitempty"`

	// capabilities that all primaries have, found by trial: functions, script-flags, tracking (changes of what was published
	// are pushed, and so mended at once).
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=64
	Capabilities []string `json:"capabilities,omitempty"`

	// maxmemoryPolicy of the primaries; the one that may evict most, where they differ.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	MaxmemoryPolicy string `json:"maxmemoryPolicy,omitempty"`

	// persistence of the primaries: None, RDB, AOF or RDB+AOF; the least, where they differ.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Persistence string `json:"persistence,omitempty"`

	// programmedHash is the hash of the compiled set that every primary serves.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	ProgrammedHash string `json:"programmedHash,omitempty"`

	// policies is the number of policies in that set.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	Policies *int32 `json:"policies,omitempty"`
}

// RedisStore is a Redis, or Valkey, that keeps the state of policies and serves their library.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=rst,categories=penstock
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Topology",type=string,JSONPath=`.spec.topology`
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.version`
// +kubebuilder:printcolumn:name="Policies",type=integer,JSONPath=`.status.policies`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type RedisStore struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	//
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// spec is what is asked for.
	//
	// +required
	Spec RedisStoreSpec `json:"spec,omitzero"`

	// status is what was observed.
	//
	// +optional
	Status RedisStoreStatus `json:"status,omitempty,omitzero"`
}

// RedisStoreList is a list of RedisStores.
//
// +kubebuilder:object:root=true
type RedisStoreList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []RedisStore `json:"items"`
}
