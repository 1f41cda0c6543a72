package strictjson

import (
	"strings"
	"testing"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
)

func TestAnErrorTellsThePlaceAndRepeatsNothing(t *testing.T) {
	for name, test := range map[string]struct{ data, want string }{
		"no JSON":          {`secret`, "line 1:1: not the JSON of a envoy.service.ratelimit.v3.RateLimitRequest"},
		"nothing":          {``, "line 1:1: not the JSON of a envoy.service.ratelimit.v3.RateLimitRequest"},
		"an unknown field": {"{\n\"secret\": 1}", "line 2:1: unknown field; the fields of RateLimitRequest are domain, descriptors, hitsAddend"},
		"an unknown field below": {
			`{"descriptors":[{"secret":1}]}`, "line 1:18: unknown field; the fields of RateLimitRequest are domain, descriptors, hitsAddend",
		},
		"a field twice":     {`{"domain":"a","domain":"secret"}`, "line 1:15: duplicate field"},
		"a value of a kind": {`{"hitsAddend":"secret"}`, "line 1:15: invalid value for uint32 field hitsAddend"},
		"what is cut off":   {`{"domain":"secret`, "not the JSON of a envoy.service.ratelimit.v3.RateLimitRequest"},
		"too deep": {
			`{"domain":` + strings.Repeat("[", 20_000), "line 1:11: invalid value for string field domain",
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := Unmarshal([]byte(test.data), &ratelimitv3.RateLimitRequest{})
			if err == nil || err.Error() != test.want {
				t.Errorf("%v, want %s", err, test.want)
			}
		})
	}
}

func TestARequestIsReadAsProtoJSONHasIt(t *testing.T) {
	var r ratelimitv3.RateLimitRequest
	if err := Unmarshal([]byte(`{"domain":"shop","hits_addend":2,"descriptors":[{"hitsAddend":"3"}]}`), &r); err != nil {
		t.Fatal(err)
	}
	if r.GetDomain() != "shop" || r.GetHitsAddend() != 2 || r.GetDescriptors()[0].GetHitsAddend().GetValue() != 3 {
		t.Errorf("%v", &r)
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte(`{"domain":"shop","descriptors":[{"entries":[{"key":"user","value":"bob"}],"limit":{"requestsPerUnit":1,"unit":"DAY"}}]}`))
	f.Add([]byte(`{"domain":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		err := Unmarshal(data, &ratelimitv3.RateLimitRequest{})
		// Everything in it is of a fixed set of words.
		if err != nil && len(err.Error()) > 200 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	})
}
