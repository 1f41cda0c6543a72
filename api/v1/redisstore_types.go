package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// DefaultStoreName is the RedisStore that policies without a storeRef use.
const DefaultStoreName = "default"

// Keys of the Secret that auth.secretRef names.
const (
	// SecretKeyUsername is optional; without it the ACL user "default" is meant.
	SecretKeyUsername = "username"
	// SecretKeyPassword is required.
	SecretKeyPassword = "password"
)

// Topology is how the servers of a store are arranged.
//
// +kubebuilder:validation:Enum=Standalone
type Topology string

// TopologyStandalone is one server, or one address that always leads to the primary.
const TopologyStandalone Topology = "Standalone"

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

// Auth is how Penstock authenticates to Redis.
type Auth struct {
	// secretRef names a Secret in the same namespace with the keys username (optional) and password. It is read again on
	// every resync and after an authentication error, so that credentials are rotated without a restart.
	//
	// +required
	SecretRef LocalSecretReference `json:"secretRef,omitzero"`
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
type RedisStoreSpec struct {
	// topology is how the servers are arranged. Immutable.
	//
	// +optional
	// +default="Standalone"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="topology is immutable; create a new RedisStore"
	Topology Topology `json:"topology,omitempty"`

	// addresses of the servers, as host:port.
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

	// auth is how Penstock authenticates. Omitted: not at all.
	//
	// +optional
	Auth *Auth `json:"auth,omitempty"`

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

	// version of the server.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Version string `json:"version,omitempty"`

	// identity of the data set: the server's master_replid. It changes on a restart and on a failover.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Identity string `json:"identity,omitempty"`

	// capabilities of the server, found by trial.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=64
	Capabilities []string `json:"capabilities,omitempty"`

	// maxmemoryPolicy of the server.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	MaxmemoryPolicy string `json:"maxmemoryPolicy,omitempty"`

	// persistence of the server: None, RDB, AOF or RDB+AOF.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Persistence string `json:"persistence,omitempty"`

	// programmedHash is the hash of the compiled set that Redis serves.
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
