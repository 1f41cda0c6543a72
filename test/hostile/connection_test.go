package hostile

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sync/errgroup"
)

// dial opens a connection that ends with the test.
func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	connection, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return connection
}

// many runs the attack so often at once, and gives the first error.
func many(n int, attack func() error) error {
	var all errgroup.Group
	for range n {
		all.Go(attack)
	}
	return all.Wait()
}

// ends reads until penstockd ends the connection, and fails when it does not in time.
func ends(connection net.Conn, within time.Duration) error {
	_ = connection.SetReadDeadline(time.Now().Add(within))
	if _, err := io.Copy(io.Discard, connection); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("is not cut off within %v", within)
	}
	return nil
}

// drip writes the text again and again, slowly, until it cannot.
func drip(connection io.Writer, text string) {
	pace := time.NewTicker(200 * time.Millisecond)
	defer pace.Stop()
	for range pace.C {
		if _, err := io.WriteString(connection, text); err != nil {
			return
		}
	}
}

// raw is a client of HTTP/2 that does as it likes. One goroutine may write and another read.
type raw struct {
	net.Conn
	writing sync.Mutex
	framer  *http2.Framer
	block   bytes.Buffer
	encoder *hpack.Encoder
}

// dialHTTP2 begins HTTP/2 on a connection of its own.
func dialHTTP2(t *testing.T, address string, settings ...http2.Setting) *raw {
	t.Helper()
	return newHTTP2(t, dial(t, address), settings...)
}

func newHTTP2(t *testing.T, connection net.Conn, settings ...http2.Setting) *raw {
	t.Helper()
	c := &raw{Conn: connection, framer: http2.NewFramer(connection, connection)}
	c.framer.AllowIllegalWrites = true
	c.encoder = hpack.NewEncoder(&c.block)
	if _, err := io.WriteString(connection, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := c.framer.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	return c
}

// write writes frames, while no other goroutine does.
func (c *raw) write(frames func(*http2.Framer) error) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	return frames(c.framer)
}

// headers encodes a request.
func (c *raw) headers(method, path, contentType string, more ...string) []byte {
	c.block.Reset()
	fields := append([]string{
		":method", method, ":scheme", "http", ":path", path, ":authority", "penstockd", "content-type", contentType, "te", "trailers",
	}, more...)
	for i := 0; i < len(fields); i += 2 {
		_ = c.encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return c.block.Bytes()
}

// open begins a stream with a request; its body follows unless it ends there.
func (c *raw) open(id uint32, end bool, method, path, contentType string, more ...string) error {
	return c.write(func(f *http2.Framer) error {
		return f.WriteHeaders(http2.HeadersFrameParam{
			StreamID: id, BlockFragment: c.headers(method, path, contentType, more...), EndHeaders: true, EndStream: end,
		})
	})
}

// read reads frames until one satisfies found, and fails when the connection ends first, or when there is none in time.
// Settings are acknowledged; pings are not answered.
func (c *raw) read(within time.Duration, found func(http2.Frame) bool) error {
	_ = c.SetReadDeadline(time.Now().Add(within))
	for {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			return err
		}
		if settings, is := frame.(*http2.SettingsFrame); is && !settings.IsAck() {
			if err := c.write((*http2.Framer).WriteSettingsAck); err != nil {
				return err
			}
		}
		if found(frame) {
			return nil
		}
	}
}

// goesAway tells whether the frame ends the connection.
func goesAway(frame http2.Frame) bool {
	_, is := frame.(*http2.GoAwayFrame)
	return is
}

// endsStream tells whether the frame ends that stream.
func endsStream(id uint32) func(http2.Frame) bool {
	return func(frame http2.Frame) bool {
		if frame.Header().StreamID != id {
			return false
		}
		_, reset := frame.(*http2.RSTStreamFrame)
		return reset || frame.Header().Flags.Has(http2.FlagDataEndStream)
	}
}

// cutOff fails unless the connection was ended by penstockd, with GOAWAY or without.
func (c *raw) cutOff(within time.Duration) error {
	err := c.read(within, goesAway)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("is not cut off within %v", within)
	}
	return nil
}

// message frames a gRPC message of which the length says so many bytes.
func message(length int, content []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(length)), content...)
}

// trusting is how a client connects that knows the CA.
func trusting(config *tls.Config, protocols ...string) *tls.Config {
	c := config.Clone()
	c.NextProtos = protocols
	return c
}

// closed tells whether a read ended because penstockd hung up, and not for want of time.
func closed(err error) bool { return err != nil && !errors.Is(err, os.ErrDeadlineExceeded) }
