package v1_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	v1 "github.com/penstock-dev/penstock/api/v1"
)

// namespace is the one of the samples.
const namespace = "shop"

// api is a client of a real kube-apiserver with the CRDs, which refuses unknown fields as kubectl asks it to.
var api client.Client

func TestAPI(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "api/v1")
}

var _ = BeforeSuite(func(ctx context.Context) {
	environment := &envtest.Environment{
		CRDDirectoryPaths:     []string{"../../config/crd/bases"},
		ErrorIfCRDPathMissing: true,
	}
	config, err := environment.Start()
	Expect(err).NotTo(HaveOccurred(), "make test sets KUBEBUILDER_ASSETS, by hack/envtest-assets.sh")
	DeferCleanup(environment.Stop)

	Expect(v1.AddToScheme(clientgoscheme.Scheme)).To(Succeed())
	direct, err := client.New(config, client.Options{Scheme: clientgoscheme.Scheme})
	Expect(err).NotTo(HaveOccurred())
	api = client.WithFieldValidation(direct, metav1.FieldValidationStrict)
	Expect(api.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})).To(Succeed())
})

// manifest gives an object of a kind with that spec (YAML). It has a name of its own.
func manifest(kind, spec string) *unstructured.Unstructured {
	GinkgoHelper()
	var parsed map[string]any
	Expect(yaml.UnmarshalStrict([]byte(spec), &parsed, useIntegers)).To(Succeed())
	object := &unstructured.Unstructured{Object: map[string]any{"spec": parsed}}
	object.SetGroupVersionKind(v1.GroupVersion.WithKind(kind))
	object.SetNamespace(namespace)
	object.SetGenerateName("rule-")
	return object
}

// useIntegers keeps integers beyond 2^53 as they were written.
func useIntegers(decoder *json.Decoder) *json.Decoder {
	decoder.UseNumber()
	return decoder
}

// expectCreated creates the object, or expects a refusal with a message, and removes what it created. No refusal speaks
// of a rule that could not be evaluated, or of a pattern that the reader would have to decipher.
func expectCreated(ctx context.Context, object *unstructured.Unstructured, wantRefusal string) {
	GinkgoHelper()
	err := api.Create(ctx, object)
	if wantRefusal != "" {
		Expect(err).To(MatchError(ContainSubstring(wantRefusal)))
		Expect(err).NotTo(MatchError(ContainSubstring("evaluating rule")))
		Expect(err).NotTo(MatchError(ContainSubstring("should match")))
		return
	}
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(api.Delete, object)
}

// expectUpdated creates an object with the spec before, and changes it to the spec after.
func expectUpdated(ctx context.Context, kind, before, after, wantRefusal string) {
	GinkgoHelper()
	object := manifest(kind, before)
	expectCreated(ctx, object, "")
	object.Object["spec"] = manifest(kind, after).Object["spec"]
	err := api.Update(ctx, object)
	if wantRefusal != "" {
		Expect(err).To(MatchError(ContainSubstring(wantRefusal)))
		return
	}
	Expect(err).NotTo(HaveOccurred())
}

// limit gives a spec with one limit, of one field or more in YAML's flow style.
func limit(fields string) string {
	return fmt.Sprintf("limits: [{%s}]", fields)
}
