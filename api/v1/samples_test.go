package v1_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	v1 "github.com/penstock-dev/penstock/api/v1"
)

// sizeLimit is what CRDs and full samples stay under: client-side apply keeps a copy in an annotation, and an object's
// annotations may have 256 KiB.
const sizeLimit = 200 << 10

func files(pattern string) []string {
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		panic("no file " + pattern)
	}
	return found
}

func read(file string) *unstructured.Unstructured {
	GinkgoHelper()
	text, err := os.ReadFile(file)
	Expect(err).NotTo(HaveOccurred())
	object := &unstructured.Unstructured{}
	Expect(yaml.UnmarshalStrict(text, &object.Object, useIntegers)).To(Succeed())
	return object
}

// header gives the value of a header comment, such as "# want: ...".
func header(file, name string) string {
	GinkgoHelper()
	text, err := os.ReadFile(file)
	Expect(err).NotTo(HaveOccurred())
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, "# "+name+": "); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

var _ = Describe("samples", func() {
	for _, file := range files("../../config/samples/*.yaml") {
		It("has a sample that the API server takes: "+filepath.Base(file), func(ctx context.Context) {
			object := read(file)
			if object.GroupVersionKind().Group != v1.GroupVersion.Group {
				Expect(object.GetKind()).To(BeElementOf("Kustomization", "Namespace"))
				return
			}
			expectCreated(ctx, object, "")
		})
	}

	for _, file := range files("../../config/samples/invalid/*.yaml") {
		It("has an invalid sample that is refused: "+filepath.Base(file), func(ctx context.Context) {
			want := header(file, "want")
			Expect(want).NotTo(BeEmpty(), "the first line says # want: <message>")
			if strings.HasPrefix(header(file, "by"), "operator") {
				// What no schema can say: see internal/translate.
				want = ""
			}
			expectCreated(ctx, read(file), want)
		})
	}

	for _, pattern := range []string{"../../config/crd/bases/*.yaml", "../../config/samples/*_full.yaml"} {
		for _, file := range files(pattern) {
			It("stays small enough for client-side apply: "+filepath.Base(file), func() {
				info, err := os.Stat(file)
				Expect(err).NotTo(HaveOccurred())
				Expect(info.Size()).To(BeNumerically("<", sizeLimit))
			})
		}
	}
})
