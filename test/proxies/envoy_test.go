package proxies

import (
	"net/http"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3" // what the page names
	managerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	protocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protopath"
	"google.golang.org/protobuf/reflect/protorange"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/anypb"
	"sigs.k8s.io/yaml"
)

// The filters of the page.
const (
	limitFilter = "envoy.filters.http.ratelimit"
	authFilter  = "envoy.filters.http.ext_authz"
)

// envoyConfig is a configuration of the page, as Envoy reads it.
type envoyConfig struct {
	*bootstrapv3.Bootstrap
	manager *managerv3.HttpConnectionManager
}

// readEnvoy reads the page's configuration, with the block of that name in the place of its filter; none is "". It fails on
// what Envoy would refuse.
func readEnvoy(t *testing.T, filter string, change ...string) envoyConfig {
	t.Helper()
	text := block(t, "envoy.md", "config")
	if filter != "" {
		begin, rest, _ := strings.Cut(text, "          - name: "+limitFilter+"\n")
		_, end, found := strings.Cut(rest, "          - name: envoy.filters.http.router\n")
		if !found {
			t.Fatal("envoy.md: want the router after the filter")
		}
		text = begin + block(t, "envoy.md", filter) + "          - name: envoy.filters.http.router\n" + end
	}
	text = replace(t, text, change...)
	asJSON, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	config := envoyConfig{&bootstrapv3.Bootstrap{}, &managerv3.HttpConnectionManager{}}
	if err := protojson.Unmarshal(asJSON, config.Bootstrap); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	validate(t, config.Bootstrap)
	unpack(t, config.GetStaticResources().GetListeners()[0].GetFilterChains()[0].GetFilters()[0].GetTypedConfig(), config.manager)
	return config
}

// validate holds a message and all that it contains, packed or not, against the rules of Envoy.
func validate(t *testing.T, message proto.Message) {
	t.Helper()
	visit := func(at protopath.Values) error {
		switch last := at.Index(-1); last.Step.Kind() {
		case protopath.FieldAccessStep:
			field := last.Step.FieldDescriptor()
			if options, ok := field.Options().(*descriptorpb.FieldOptions); ok && options.GetDeprecated() {
				t.Errorf("%s is deprecated", field.FullName())
			}
		case protopath.RootStep, protopath.AnyExpandStep:
			if v, ok := last.Value.Message().Interface().(interface{ ValidateAll() error }); ok {
				return v.ValidateAll()
			}
		}
		return nil
	}
	if err := protorange.Range(message.ProtoReflect(), visit); err != nil {
		t.Error(err)
	}
}

func unpack(t *testing.T, packed *anypb.Any, into proto.Message) {
	t.Helper()
	if err := packed.UnmarshalTo(into); err != nil {
		t.Fatal(err)
	}
}

// filter gives the configuration of the HTTP filter of that name.
func (c envoyConfig) filter(t *testing.T, name string, into proto.Message) {
	t.Helper()
	for _, f := range c.manager.GetHttpFilters() {
		if f.GetName() == name {
			unpack(t, f.GetTypedConfig(), into)
			return
		}
	}
	t.Fatalf("there is no filter %s", name)
}

// wantCluster fails unless there is a cluster of that name for gRPC, at the port of penstockd's default.
func (c envoyConfig) wantCluster(t *testing.T, service *corev3.GrpcService) {
	t.Helper()
	for _, cluster := range c.GetStaticResources().GetClusters() {
		if cluster.GetName() != service.GetEnvoyGrpc().GetClusterName() {
			continue
		}
		port := cluster.GetLoadAssignment().GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().GetAddress().GetSocketAddress().GetPortValue()
		options := &protocolv3.HttpProtocolOptions{}
		unpack(t, cluster.GetTypedExtensionProtocolOptions()["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"], options)
		if port != 8081 || options.GetExplicitHttpConfig().GetHttp2ProtocolOptions() == nil {
			t.Errorf("cluster %s: port %d, %v; want HTTP/2 to 8081", cluster.GetName(), port, options)
		}
		return
	}
	t.Errorf("there is no cluster %q", service.GetEnvoyGrpc().GetClusterName())
}

func (c envoyConfig) host() *routev3.VirtualHost {
	return c.manager.GetRouteConfig().GetVirtualHosts()[0]
}

// dial connects to penstockd as Envoy does.
func dial(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return connection
}

// descriptor is what Envoy makes of the actions of a rate limit, for a request of that client.
func descriptor(t *testing.T, limit *routev3.RateLimit, client string) *commonv3.RateLimitDescriptor {
	t.Helper()
	d := &commonv3.RateLimitDescriptor{}
	for _, action := range limit.GetActions() {
		if action.GetRemoteAddress() == nil {
			t.Fatalf("the test does not know the action %v", action)
		}
		d.Entries = append(d.Entries, &commonv3.RateLimitDescriptor_Entry{Key: "remote_address", Value: client})
	}
	return d
}

func TestEnvoysRateLimitFilterIsAnswered(t *testing.T) {
	config := readEnvoy(t, "")
	filter := &filterv3.RateLimit{}
	config.filter(t, limitFilter, filter)
	config.wantCluster(t, filter.GetRateLimitService().GetGrpcService())
	client := newClient()
	request := &ratelimitv3.RateLimitRequest{Domain: filter.GetDomain()}
	for _, limit := range config.host().GetRateLimits() {
		request.Descriptors = append(request.Descriptors, descriptor(t, limit, client))
	}
	service := ratelimitv3.NewRateLimitServiceClient(dial(t, startPenstockd(t).GRPC))
	for i := range budget + 1 {
		response, err := service.ShouldRateLimit(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		got := answer{status: http.StatusOK, header: added(response.GetResponseHeadersToAdd()), body: string(response.GetRawBody())}
		if i < budget {
			wantCode(t, i, response.GetOverallCode(), ratelimitv3.RateLimitResponse_OK)
			wantFigures(t, proxy{figures: true}, got, budget-1-i)
			continue
		}
		wantCode(t, i, response.GetOverallCode(), ratelimitv3.RateLimitResponse_OVER_LIMIT)
		wantProblem(t, proxy{}, got)
	}
}

func wantCode[T comparable](t *testing.T, i int, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("request %d: %v, want %v", i+1, got, want)
	}
}

// added are headers as the client gets them.
func added(pairs []*corev3.HeaderValue) http.Header {
	headers := http.Header{}
	for _, pair := range pairs {
		headers.Add(pair.GetKey(), pair.GetValue())
	}
	return headers
}

// pairs are the headers of options.
func pairs(options []*corev3.HeaderValueOption) []*corev3.HeaderValue {
	out := make([]*corev3.HeaderValue, len(options))
	for i, option := range options {
		out[i] = option.GetHeader()
	}
	return out
}

func TestEnvoysAuthorizationByGRPCIsAnswered(t *testing.T) {
	connection := dial(t, startPenstockd(t).GRPC)
	for name, config := range map[string]envoyConfig{
		"domain of the filter": readEnvoy(t, "grpc"),
		"policy of the route": readEnvoy(t, "grpc",
			"                initial_metadata:\n                - {key: x-penstock-domain, value: shop}\n", "",
			"              domains: [\"*\"]\n", "              domains: [\"*\"]\n"+block(t, "envoy.md", "route")),
	} {
		t.Run(name, func(t *testing.T) {
			filter, route := &extauthzv3.ExtAuthz{}, &extauthzv3.ExtAuthzPerRoute{}
			config.filter(t, authFilter, filter)
			config.wantCluster(t, filter.GetGrpcService())
			if packed := config.host().GetTypedPerFilterConfig()[authFilter]; packed != nil {
				unpack(t, packed, route)
			}
			ctx := t.Context()
			for _, pair := range filter.GetGrpcService().GetInitialMetadata() {
				ctx = metadata.AppendToOutgoingContext(ctx, pair.GetKey(), pair.GetValue())
			}
			request := check(newClient(), route.GetCheckSettings().GetContextExtensions())
			for i := range budget + 1 {
				response, err := authv3.NewAuthorizationClient(connection).Check(ctx, request)
				if err != nil {
					t.Fatal(err)
				}
				if i < budget {
					wantCode(t, i, code.Code(response.GetStatus().GetCode()), code.Code_OK)
					wantFigures(t, proxy{figures: true}, answer{header: added(pairs(response.GetOkResponse().GetResponseHeadersToAdd()))}, budget-1-i)
					continue
				}
				denied := response.GetDeniedResponse()
				wantCode(t, i, code.Code(response.GetStatus().GetCode()), code.Code_RESOURCE_EXHAUSTED)
				wantCode(t, i, int(denied.GetStatus().GetCode()), http.StatusTooManyRequests)
				wantProblem(t, proxy{}, answer{header: added(pairs(denied.GetHeaders())), body: denied.GetBody()})
			}
		})
	}
}

// check is the question that Envoy asks about a request.
func check(client string, extensions map[string]string) *authv3.CheckRequest {
	address := &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: client, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 40000},
	}}}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source:            &authv3.AttributeContext_Peer{Address: address},
		ContextExtensions: extensions,
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: http.MethodGet, Path: "/v1/orders?page=1", Host: "shop.example", Scheme: "http", Protocol: "HTTP/1.1",
			Headers: map[string]string{":method": http.MethodGet, ":path": "/v1/orders?page=1", ":authority": "shop.example", "x-forwarded-for": client},
		}},
	}}
}

func TestEnvoysAuthorizationByHTTPIsAnswered(t *testing.T) {
	config, filter := readEnvoy(t, "http"), &extauthzv3.ExtAuthz{}
	config.filter(t, authFilter, filter)
	if got := filter.GetHttpService().GetServerUri().GetUri(); got != "http://"+pagePenstockd {
		t.Errorf("the page asks at %s, want port 8080", got)
	}
	var sent, shown []string
	for _, pattern := range filter.GetAllowedHeaders().GetPatterns() {
		sent = append(sent, pattern.GetExact())
	}
	for _, pattern := range filter.GetHttpService().GetAuthorizationResponse().GetAllowedClientHeadersOnSuccess().GetPatterns() {
		shown = append(shown, pattern.GetExact())
	}
	client := newClient()
	from := http.Header{"X-Forwarded-For": {"198.51.100.1, " + client}, "Host": {"shop.example"}}
	headers := http.Header{"Host": from["Host"]} // which Envoy sends always
	for _, name := range sent {
		headers[http.CanonicalHeaderKey(name)] = from.Values(name)
	}
	url := "http://" + startPenstockd(t).HTTP + filter.GetHttpService().GetPathPrefix() + "/v1/orders?page=1"
	left := budget
	request := func() answer { return ask(t, here, http.MethodGet, url, headers, "") }
	for range budget {
		got := request()
		left--
		wantCode(t, budget-1-left, got.status, http.StatusOK)
		allowed := http.Header{}
		for _, name := range shown {
			allowed[http.CanonicalHeaderKey(name)] = got.header.Values(name)
		}
		wantFigures(t, proxy{figures: true}, answer{header: allowed}, left)
	}
	wantProblem(t, proxy{}, wantDenied(t, request))
}
