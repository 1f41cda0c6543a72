package v1_test

import (
	"context"
	"os"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

// There is one topology so far, so that no client can ask for a change from one valid topology to another: the API
// server's own evaluation of the rule has to do.
var _ = DescribeTable("RedisStore topology is immutable",
	func(ctx context.Context, before, after, wantRefusal string) {
		text, err := os.ReadFile("../../config/crd/bases/penstock.dev_redisstores.yaml")
		Expect(err).NotTo(HaveOccurred())
		var crd apiextensionsv1.CustomResourceDefinition
		Expect(yaml.UnmarshalStrict(text, &crd)).To(Succeed())
		var props apiextensions.JSONSchemaProps
		Expect(apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(crd.Spec.Versions[0].Schema.OpenAPIV3Schema, &props, nil)).To(Succeed())
		structural, err := schema.NewStructural(&props)
		Expect(err).NotTo(HaveOccurred())

		object := func(topology string) map[string]any {
			return map[string]any{"spec": map[string]any{"topology": topology, "addresses": []any{"redis:6379"}}}
		}
		errs, _ := cel.NewValidator(structural, true, celconfig.PerCallLimit).
			Validate(ctx, nil, structural, object(after), object(before), celconfig.RuntimeCELCostBudget)
		if wantRefusal == "" {
			Expect(errs).To(BeEmpty())
			return
		}
		Expect(errs).To(ContainElement(MatchError(ContainSubstring(wantRefusal))))
	},
	Entry("accepts the same", "Standalone", "Standalone", ""),
	Entry("refuses another", "Sentinel", "Standalone", "spec.topology: Invalid value: \"Standalone\": topology is immutable; create a new RedisStore"),
)
