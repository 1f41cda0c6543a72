package hostile

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip" // for the bomb
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const (
	// floodEnds is when a flood is to have been cut off.
	floodEnds = 20 * time.Second
	// frames is how many a flood has that need not be cut off.
	frames = 100_000
)

// A flood is cut off, or taken at the pace of who reads the answers; in both cases nothing piles up.
func TestFloodsOfHTTP2PileNothingUp(t *testing.T) {
	t.Parallel()
	v := start(t)
	type flood struct {
		frame  func(c *raw, n uint32) error
		reads  bool // what penstockd answers
		cutOff bool // by penstockd
	}
	ping := func(c *raw, _ uint32) error {
		return c.write(func(f *http2.Framer) error { return f.WritePing(false, [8]byte{}) })
	}
	settings := func(c *raw, _ uint32) error {
		return c.write(func(f *http2.Framer) error { return f.WriteSettings() })
	}
	reset := func(method, contentType string) func(c *raw, n uint32) error {
		return func(c *raw, n uint32) error {
			if err := c.open(2*n+1, false, "POST", method, contentType); err != nil {
				return err
			}
			return c.write(func(f *http2.Framer) error { return f.WriteRSTStream(2*n+1, http2.ErrCodeCancel) })
		}
	}
	whole := func(method, contentType string) func(c *raw, n uint32) error {
		return func(c *raw, n uint32) error {
			if err := c.open(2*n+1, true, "POST", method, contentType); err != nil {
				return err
			}
			return c.write(func(f *http2.Framer) error { return f.WriteRSTStream(2*n+1, http2.ErrCodeCancel) })
		}
	}
	continuation := func(c *raw, n uint32) error {
		return c.write(func(f *http2.Framer) error {
			if n == 0 {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.headers("POST", "/json", "application/json")})
			}
			return f.WriteContinuation(1, false, c.headers("POST", "/json", "application/json"))
		})
	}
	empty := func(c *raw, n uint32) error {
		if n == 0 {
			return c.open(1, false, "POST", "/json", "application/json")
		}
		return c.write(func(f *http2.Framer) error { return f.WriteData(1, false, nil) })
	}
	for port, test := range map[string]struct {
		address     string
		method      string
		contentType string
		floods      map[string]flood
	}{
		"HTTP": {v.HTTP, "/json", "application/json", map[string]flood{
			"pings that are read": {frame: ping, reads: true}, "pings": {frame: ping, cutOff: true},
			"settings that are read": {frame: settings, reads: true}, "settings": {frame: settings},
		}},
		"gRPC": {v.GRPC, rlsMethod, "application/grpc", map[string]flood{
			"pings that are read": {frame: ping, reads: true, cutOff: true}, "pings": {frame: ping, cutOff: true},
			"settings that are read": {frame: settings, reads: true}, "settings": {frame: settings},
		}},
	} {
		test.floods["rapid resets"] = flood{frame: reset(test.method, test.contentType), reads: true}
		test.floods["rapid resets of whole requests"] = flood{frame: whole(test.method, test.contentType), reads: true}
		test.floods["continuations"] = flood{frame: continuation, reads: true, cutOff: true}
		test.floods["empty data"] = flood{frame: empty, reads: true}
		for name, flood := range test.floods {
			t.Run(name+" on the "+port+" port", func(t *testing.T) {
				c := dialHTTP2(t, test.address)
				read := make(chan error, 1)
				if flood.reads {
					go func() { read <- c.read(floodEnds, goesAway) }()
				}
				_ = c.SetWriteDeadline(time.Now().Add(floodEnds))
				var err error
				for n := uint32(0); err == nil && (n < frames || flood.cutOff && !flood.reads); n++ {
					err = flood.frame(c, n)
				}
				if goroutines, _ := v.resources(); goroutines > v.goroutines+2*1000+goroutinesLeft {
					t.Errorf("%d goroutines in the flood, want at most two for each of 1000 streams", goroutines)
				}
				if flood.cutOff && err == nil {
					err = <-read
				}
				if flood.cutOff && errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("is not cut off within %v", floodEnds)
				}
				_ = c.Close()
			})
		}
	}
}

func TestOneConnectionHasAThousandStreams(t *testing.T) {
	t.Parallel()
	v := start(t)
	for port, test := range map[string]struct{ address, method, contentType string }{
		"HTTP": {v.HTTP, "/json", "application/json"}, "gRPC": {v.GRPC, rlsMethod, "application/grpc"},
	} {
		c := dialHTTP2(t, test.address)
		// Penstockd tells its bound first: a stream before that is refused otherwise.
		if err := c.read(slack, func(frame http2.Frame) bool {
			settings, is := frame.(*http2.SettingsFrame)
			return is && settings.IsAck()
		}); err != nil {
			t.Fatalf("the %s port: %v", port, err)
		}
		const streams = 1000
		for n := range uint32(streams + 1) {
			if err := c.open(2*n+1, false, "POST", test.method, test.contentType); err != nil {
				t.Fatalf("stream %d of the %s port: %v", n, port, err)
			}
		}
		var refused []uint32
		if err := c.read(slack, func(frame http2.Frame) bool {
			if reset, is := frame.(*http2.RSTStreamFrame); is {
				refused = append(refused, reset.StreamID)
			}
			return len(refused) > 0
		}); err != nil || refused[0] != 2*streams+1 {
			t.Errorf("the %s port refused the streams %v, %v; want only the last", port, refused, err)
		}
	}
}

// Calls whose answers nobody reads stay, and so count among the streams of their connection.
func TestAnswersOverGRPCThatNobodyReadsAreBounded(t *testing.T) {
	t.Parallel()
	v := start(t)
	c := dialHTTP2(t, v.GRPC, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	request, err := proto.Marshal(rlsRequest("header.crowd", "x"))
	if err != nil {
		t.Fatal(err)
	}
	refused := make(chan error, 1)
	go func() {
		refused <- c.read(floodEnds, func(frame http2.Frame) bool {
			reset, is := frame.(*http2.RSTStreamFrame)
			return is && reset.ErrCode == http2.ErrCodeRefusedStream
		})
	}()
	for n := range uint32(1001) {
		if err := c.open(2*n+1, false, "POST", rlsMethod, "application/grpc"); err != nil {
			t.Fatalf("call %d: %v", n, err)
		}
		if err := c.write(func(f *http2.Framer) error {
			return f.WriteData(2*n+1, true, message(len(request), request))
		}); err != nil {
			t.Fatalf("call %d: %v", n, err)
		}
	}
	if err := <-refused; err != nil {
		t.Errorf("no call is refused: %v", err)
	}
	if _, heap := v.resources(); heap > v.heap+4*heapLeft {
		t.Errorf("%d bytes in use with a thousand answers that nobody reads, from %d before", heap, v.heap)
	}
	_ = c.Close()
}

// bombSize is of bodies of blanks, as JSON allows.
const bombSize = 10 << 20

func TestLargeBodiesAreRefused(t *testing.T) {
	t.Parallel()
	v := start(t)
	h2c := new(http.Protocols)
	h2c.SetUnencryptedHTTP2(true)
	clients := map[string]*http.Client{
		"HTTP/1.1": {Transport: &http.Transport{}},
		"HTTP/2":   {Transport: &http.Transport{Protocols: h2c}},
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = io.Copy(w, io.LimitReader(blanks{}, bombSize))
	_ = w.Close()
	for version, client := range clients {
		defer client.CloseIdleConnections()
		for path, want := range map[string]struct{ plain, gzip int }{
			// A door that needs no body does not unpack it either.
			"/auth/shop/crowd": {http.StatusRequestEntityTooLarge, http.StatusOK},
			"/json":            {http.StatusRequestEntityTooLarge, http.StatusBadRequest},
			limiterMethod:      {http.StatusTooManyRequests, http.StatusNotImplemented},
		} {
			for name, test := range map[string]struct {
				body     io.Reader
				length   int64
				encoding string
				want     int
			}{
				"10 MB":                   {io.LimitReader(blanks{}, bombSize), bombSize, "", want.plain},
				"10 MB of unknown length": {io.LimitReader(blanks{}, bombSize), -1, "", want.plain},
				"10 MB in gzip":           {&packed, int64(packed.Len()), "gzip", want.gzip},
			} {
				t.Run(fmt.Sprintf("%s for %s over %s", name, path, version), func(t *testing.T) {
					if test.encoding != "" {
						test.body = bytes.NewReader(packed.Bytes())
					}
					request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, v.url(v.HTTP, path), test.body)
					if err != nil {
						t.Fatal(err)
					}
					request.ContentLength = test.length
					request.Header = http.Header{"Content-Type": {"application/json"}, "Crowd": {"x"}}
					if test.encoding != "" {
						request.Header.Set("Content-Encoding", test.encoding)
					}
					response, err := client.Do(request)
					if err != nil && test.encoding == "" {
						return // the connection was closed while the body was still being sent
					}
					if err != nil {
						t.Fatal(err)
					}
					_ = response.Body.Close()
					if response.StatusCode != test.want {
						t.Errorf("%s, want %d", response.Status, test.want)
					}
				})
			}
		}
	}
}

// blanks has no end.
type blanks struct{}

func (blanks) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestLargeMessagesAreRefused(t *testing.T) {
	t.Parallel()
	v := start(t)
	for port, address := range map[string]string{"HTTP": v.HTTP, "gRPC": v.GRPC} {
		connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = connection.Close() }()
		method := map[string]string{"HTTP": limiterMethod, "gRPC": rlsMethod}[port]
		for name, test := range map[string]struct {
			options []grpc.CallOption
			want    codes.Code
		}{
			"10 MB": {nil, codes.ResourceExhausted},
			"10 MB in gzip": {[]grpc.CallOption{grpc.UseCompressor("gzip")}, map[string]codes.Code{
				"HTTP": codes.Unimplemented, "gRPC": codes.ResourceExhausted, // where its size is that of what it unpacks to
			}[port]},
		} {
			t.Run(name+" on the "+port+" port", func(t *testing.T) {
				request := rlsRequest("door", strings.Repeat(" ", bombSize))
				if err := connection.Invoke(t.Context(), method, request, &ratelimitv3.RateLimitResponse{}, test.options...); status.Code(err) != test.want {
					t.Errorf("%v, want %v", err, test.want)
				}
			})
		}
	}
}

func TestLargeHeadersAreRefused(t *testing.T) {
	t.Parallel()
	v := start(t)
	t.Run("HTTP/1.1", func(t *testing.T) {
		for name, test := range map[string]struct {
			header string
			want   []string
		}{
			"a line of 1 MB":             {"X-Crowd: " + strings.Repeat("x", 1<<20) + "\r\n", []string{"431"}},
			"a line of 1 MB without end": {"X-Crowd: " + strings.Repeat("x", 1<<20), []string{"431"}},
			"10,000 lines beyond 64 KiB": {strings.Repeat("X-Crowd: x\r\n", 10_000), []string{"431"}},
			"10,000 lines of few bytes":  {strings.Repeat("a:\r\n", 10_000), []string{"200"}},
			"10,000 names of few bytes":  {names(10_000), []string{"200", "431"}},
			"a target of 1 MB":           {"", []string{"431", "414"}},
		} {
			t.Run(name, func(t *testing.T) {
				target := "/auth/shop/crowd"
				if test.header == "" {
					target += strings.Repeat("/x", 1<<19)
				}
				connection := dial(t, v.HTTP)
				_ = connection.SetDeadline(time.Now().Add(slack))
				// Who is refused may be hung up on while still writing.
				go func() {
					_, _ = io.WriteString(connection, "GET "+target+" HTTP/1.1\r\nHost: penstockd\r\nCrowd: x\r\nConnection: close\r\n"+test.header+"\r\n")
				}()
				answer, err := io.ReadAll(connection)
				code, isStatus := strings.CutPrefix(string(answer[:min(len(answer), 12)]), "HTTP/1.1 ")
				if isStatus && slices.Contains(test.want, code) {
					return
				}
				if len(answer) > 0 || test.want[0] == "200" || errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("%q, %v; want one of %v", answer, err, test.want)
				}
			})
		}
	})
	for port, test := range map[string]struct{ address, method, contentType string }{
		"HTTP": {v.HTTP, "/json", "application/json"}, "gRPC": {v.GRPC, rlsMethod, "application/grpc"},
	} {
		t.Run("HTTP/2 on the "+port+" port", func(t *testing.T) {
			c := dialHTTP2(t, test.address)
			block := bytes.Clone(c.headers("POST", test.method, test.contentType, "x-crowd", strings.Repeat("x", 1<<20)))
			go func() {
				_ = c.write(func(f *http2.Framer) error {
					first := http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:1<<14]}
					if err := f.WriteHeaders(first); err != nil {
						return err
					}
					for block = block[1<<14:]; len(block) > 0; {
						n := min(len(block), 1<<14)
						if err := f.WriteContinuation(1, n == len(block), block[:n]); err != nil {
							return err
						}
						block = block[n:]
					}
					return nil
				})
			}()
			// A stream that is refused, or the connection.
			ends := endsStream(1)
			if err := c.read(slack, func(frame http2.Frame) bool { return ends(frame) || goesAway(frame) }); err != nil && !closed(err) {
				t.Errorf("neither is ended: %v", err)
			}
		})
	}
}

// names gives so many headers of different names.
func names(n int) string {
	var lines strings.Builder
	for i := range n {
		fmt.Fprintf(&lines, "%x:\r\n", i)
	}
	return lines.String()
}
