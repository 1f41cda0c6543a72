package hostile

import (
	"bufio"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

func TestGarbageIsHungUpOn(t *testing.T) {
	t.Parallel()
	v := start(t)
	random := rand.New(rand.NewPCG(1, 2)) // the same garbage each time
	noise := make([]byte, 100_000)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	for port, address := range map[string]string{"HTTP": v.HTTP, "gRPC": v.GRPC, "metrics": v.Metrics} {
		for name, garbage := range map[string]string{
			"noise":                     string(noise),
			"NULs":                      strings.Repeat("\x00", 100_000),
			"lines":                     strings.Repeat("\r\n", 50_000) + "x\r\n\r\n",
			"a line without end":        strings.Repeat("x", 2<<20),
			"a hello of TLS":            clientHello(t),
			"SMTP":                      "EHLO penstockd\r\n\r\n",
			"a frame of 16 MB":          http2.ClientPreface + "\xff\xff\xff\x04\x00\x00\x00\x00\x00",
			"noise in place of frames":  http2.ClientPreface + string(noise),
			"a proxy's protocol header": "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n\r\n",
		} {
			t.Run(name+" on the "+port+" port", func(t *testing.T) {
				t.Parallel()
				connection := dial(t, address)
				_ = connection.SetWriteDeadline(time.Now().Add(headerTimeout + slack))
				go func() { _, _ = io.WriteString(connection, garbage) }()
				if err := ends(connection, headerTimeout+slack); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// smuggled follows another request on its connection.
const smuggled = "GET /auth/shop/crowd HTTP/1.1\r\nHost: penstockd\r\nCrowd: smuggled\r\nConnection: close\r\n\r\n"

func post(headers, body string) string {
	return "POST /auth/shop/crowd HTTP/1.1\r\nHost: penstockd\r\nCrowd: x\r\n" + headers + "\r\n" + body
}

// Of two that read the same bytes as different requests, one can be made to pass what the other does not see. So a request that
// can be read in two ways is refused, and what follows on its connection is not read.
func TestARequestThatCanBeReadInTwoWaysIsNotFollowedByAnother(t *testing.T) {
	t.Parallel()
	v := start(t)
	for name, request := range map[string]string{
		"two lengths":                      post("Content-Length: 0\r\nContent-Length: 5\r\n", ""),
		"a list of lengths":                post("Content-Length: 0, 5\r\n", ""),
		"a signed length":                  post("Content-Length: +0\r\n", ""),
		"a negative length":                post("Content-Length: -1\r\n", ""),
		"a length beyond 64 bits":          post("Content-Length: 18446744073709551616\r\n", ""),
		"a blank before the colon":         post("Content-Length : 0\r\n", ""),
		"an unknown coding":                post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
		"chunked, and something else":      post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
		"chunked twice":                    post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
		"a coding with a vertical tab":     post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"),
		"a chunk of a negative size":       post("Transfer-Encoding: chunked\r\n", "-1\r\n\r\n"),
		"a chunk beyond 64 bits":           post("Transfer-Encoding: chunked\r\n", "10000000000000000\r\n\r\n"),
		"a chunk with a blank in its size": post("Transfer-Encoding: chunked\r\n", "0 x\r\n\r\n"),
		"chunks in HTTP/1.0":               strings.Replace(post("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"), "HTTP/1.1", "HTTP/1.0", 1),
		"two hosts":                        post("Host: elsewhere\r\n", ""),
		"a NUL in a value":                 post("X-Crowd: \x00\r\n", ""),
		"a CR in a value":                  post("X-Crowd: x\rTransfer-Encoding: chunked\r\n", ""),
		"a name with a blank":              post("X Crowd: x\r\n", ""),
		"a version of HTTP that is none":   strings.Replace(post("", ""), "HTTP/1.1", "HTTP/1.10", 1),
	} {
		t.Run(name, func(t *testing.T) {
			if answers := v.answers(request + smuggled); strings.Count(answers, "HTTP/1.") != 1 {
				t.Errorf("answered %q, want one answer", answers)
			}
		})
	}
}

// RFC 9112 reads these in one way, if not every proxy does: chunks count where there is a length, too (6.3), and a line that
// begins with a blank belongs to the line before (5.2).
func TestWhatTheStandardReadsInOneWayIsReadSo(t *testing.T) {
	t.Parallel()
	v := start(t)
	for name, request := range map[string]string{
		"both lengths, and chunks that end sooner": post("Content-Length: 60\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
		"both lengths, the other way round":        post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "0\r\n\r\n"),
		"a folded line":                            post("X-Crowd: x\r\n Transfer-Encoding: chunked\r\n", ""),
	} {
		t.Run(name, func(t *testing.T) {
			if answers := v.answers(request + smuggled); strings.Count(answers, "HTTP/1.1 200") != 2 {
				t.Errorf("answered %q, want two answers", answers)
			}
		})
	}
}

// answers sends the text and gives what comes until penstockd ends the connection.
func (v *victim) answers(text string) string {
	connection := dial(v.t, v.HTTP)
	if _, err := io.WriteString(connection, text); err != nil {
		v.t.Error(err)
	}
	_ = connection.SetReadDeadline(time.Now().Add(headerTimeout + slack))
	stream, err := io.ReadAll(connection)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		v.t.Errorf("the connection stays open after %q", text)
	}
	return string(stream)
}

func TestOddTargetsAreReadAsTheirPathsOrRefused(t *testing.T) {
	t.Parallel()
	v := start(t)
	for target, want := range map[string][]int{
		"GET http://elsewhere.example/auth/shop/crowd":  {http.StatusOK},
		"GET https://user:pw@elsewhere/auth/shop/crowd": {http.StatusOK, http.StatusBadRequest},
		"GET http://elsewhere.example":                  {http.StatusNotFound},
		"GET /elsewhere":                                {http.StatusNotFound},
		"GET //auth/shop/crowd":                         {http.StatusNotFound},
		"GET /%61uth/shop/crowd":                        {http.StatusOK},
		"GET /auth/shop%2fcrowd":                        {http.StatusOK, http.StatusNotFound},
		"GET /x/../auth/shop/crowd":                     {http.StatusNotFound},
		"GET /auth/shop/crowd/%zz":                      {http.StatusBadRequest},
		"GET /auth/shop/crowd#x":                        {http.StatusOK, http.StatusNotFound, http.StatusBadRequest},
		"GET auth/shop/crowd":                           {http.StatusBadRequest},
		"GET *":                                         {http.StatusNotFound, http.StatusBadRequest},
		"OPTIONS *":                                     {http.StatusOK},
		"CONNECT redis.example:6379":                    {http.StatusNotFound},
		"CONNECT /auth/shop/crowd":                      {http.StatusOK, http.StatusBadRequest},
		"PRI *":                                         {http.StatusNotFound, http.StatusBadRequest},
		"TRACE /metrics":                                {http.StatusNotFound},
		"BREW /auth/shop/crowd":                         {http.StatusOK},
	} {
		t.Run(target, func(t *testing.T) {
			connection := dial(t, v.HTTP)
			if _, err := io.WriteString(connection, target+" HTTP/1.1\r\nHost: penstockd\r\nCrowd: x\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			_ = connection.SetReadDeadline(time.Now().Add(slack))
			answer, err := http.ReadResponse(bufio.NewReader(connection), nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = answer.Body.Close()
			if !slices.Contains(want, answer.StatusCode) {
				t.Errorf("%s, want one of %v", answer.Status, want)
			}
			if tunnel := answer.Header.Get("Upgrade"); tunnel != "" {
				t.Errorf("offers %q", tunnel)
			}
		})
	}
}
