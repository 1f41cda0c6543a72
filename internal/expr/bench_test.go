package expr

import (
	"strings"
	"testing"
)

func BenchmarkHolds(b *testing.B) {
	for name, text := range map[string]string{
		"Constant": `true`,
		"Field":    `request.method == "POST"`,
		"Header":   `request.header["x-user"] == "bob"`,
		"Absent":   `request.header["x-nobody"] == "x"`,
		"Several":  `request.method in ["POST", "PUT"] && request.path.startsWith("/api/") && !("x-internal" in request.header)`,
		"Pattern":  `request.path.matches("^/api/v[0-9]+/")`,
		"Loop":     `request.path.split("/").exists(part, part == "v2")`,
	} {
		b.Run(name, func(b *testing.B) {
			c, err := CompileCondition(text)
			if err != nil {
				b.Fatal(err)
			}
			r := request()
			b.ReportAllocs()
			for b.Loop() {
				_, _ = c.Holds(r)
			}
		})
	}
}

// worst are conditions that cost nearly as much as may be, for the values of worstRequest.
var worst = map[string]string{
	"Pattern":     `request.path.matches("(?i)(x+x+)+y|a{100}b|[^a-c]*z|(.*)(.*)=")`,
	"Letters":     `request.method.matches("(\\pL{1,20}){4}z")`,
	"Comparisons": `request.host.split("/").exists(p, "é" == p || p == "ü" || p == "à" || p == "ê" || p == request.method)`,
	"Lookups":     `request.host.split("/").all(x, request.header["X"+"y"] == "a" || request.header["Y"+"x"] == "b" || true)`,
	"Errors":      `request.host.split("/").all(x, 1/0 == 1 || 1/0 == 2 || 1/0 == 3 || 1/0 == 4 || true)`,
	"Literals":    loops(22),
}

func worstRequest() *Request {
	return &Request{Domain: "shop", Cost: 1, Lookup: values(map[string]string{
		"path":   strings.Repeat("a", MaxValueBytes),
		"host":   strings.Repeat("/", MaxValueBytes),
		"method": strings.Repeat("é", MaxValueBytes/2),
	})}
}

func BenchmarkWorst(b *testing.B) {
	for name, text := range worst {
		b.Run(name, func(b *testing.B) {
			c, err := CompileCondition(text)
			if err != nil {
				b.Fatal(err)
			}
			r := worstRequest()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Holds(r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := CompileCondition(`request.method == "POST" && request.path.matches("^/api/v[0-9]+/")`); err != nil {
			b.Fatal(err)
		}
	}
}
