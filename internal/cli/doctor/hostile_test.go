package doctor_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/penstock-dev/penstock/internal/cli/doctor"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
)

// escape is what a terminal would take for a command.
const escape = "\x1b]0;owned\x07\r\n\u202e\xff"

// pretend serves a Redis that answers as it is told, by the first words of a command in upper case; to all else with an error.
func pretend(t *testing.T, answers map[string]string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go answer(connection, answers)
		}
	}()
	return listener.Addr().String()
}

func answer(connection net.Conn, answers map[string]string) {
	defer func() { _ = connection.Close() }()
	reader := bufio.NewReader(connection)
	number := func() int {
		line, err := reader.ReadString('\n')
		if err != nil {
			return -1
		}
		n, err := strconv.Atoi(strings.TrimSpace(line[1:]))
		if err != nil {
			return -1
		}
		return n
	}
	for {
		var words []string
		for range max(number(), 0) {
			word := make([]byte, max(number(), 0)+2)
			for at := 0; at < len(word); {
				n, err := reader.Read(word[at:])
				if err != nil {
					return
				}
				at += n
			}
			words = append(words, string(bytes.ToUpper(word[:len(word)-2])))
		}
		if len(words) == 0 {
			return
		}
		reply, is := answers[strings.Join(words[:min(2, len(words))], " ")]
		if !is {
			reply, is = answers[words[0]]
		}
		if !is {
			reply = "-ERR " + strings.ReplaceAll(escape, "\r\n", "") + "\r\n"
		}
		if _, err := connection.Write([]byte(reply)); err != nil {
			return
		}
	}
}

func bulk(text string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(text), text) }

func array(elements ...string) string {
	return fmt.Sprintf("*%d\r\n%s", len(elements), strings.Join(elements, ""))
}

// endures examines, and wants an end in time and nothing in what is written that a terminal obeys.
func endures(t *testing.T, config redisops.Config) doctor.Report {
	t.Helper()
	begin := time.Now()
	report := look(t, config, doctor.Options{Timeout: 10 * time.Second})
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	for line := range strings.Lines(text(t, report)) {
		for _, r := range strings.TrimSuffix(line, "\n") {
			if !unicode.IsPrint(r) {
				t.Errorf("%q is written: %q", r, line)
			}
		}
	}
	var b bytes.Buffer
	if err := report.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var document struct {
		Findings []doctor.Finding `json:"findings"`
	}
	if err := json.Unmarshal(b.Bytes(), &document); err != nil || len(document.Findings) != len(report.Findings) {
		t.Errorf("%d findings in JSON, %v; want %d", len(document.Findings), err, len(report.Findings))
	}
	return report
}

func TestWhatAServerSaysOfItselfIsNoCommandToATerminal(t *testing.T) {
	t.Parallel()
	hello := array(bulk("server"), bulk(escape), bulk("version"), bulk(escape), bulk("mode"), bulk("standalone"), bulk("role"), bulk("master"))
	info := "redis_version:1\x1b[2J\r\nredis_mode:standalone\r\nrole:master\r\nmaxmemory_policy:allkeys-\x1b[2J\r\n" +
		"connected_slaves:9223372036854775807\r\nslave0:ip=\x1b[2J,port=1,state=\x07\r\n"
	config := redisops.Config{Addresses: []string{pretend(t, map[string]string{
		"HELLO": hello, "INFO": bulk(info), "PING": "+PONG\r\n", "GET": bulk(escape), "ACL WHOAMI": bulk(escape), "CLIENT": "+OK\r\n",
		"FUNCTION": array(array(bulk("library_name"), bulk(escape), bulk("engine"), bulk("LUA"), bulk("functions"), array(
			array(bulk("name"), bulk("penstock_"+escape), bulk("description"), "$-1\r\n", bulk("flags"), array()),
		))),
	})}}
	report := endures(t, config)
	wantFinding(t, report, doctor.Warning, doctor.CheckEviction, "allkeys-")
	wantFinding(t, report, doctor.OK, doctor.CheckOwner, "owned")
}

func TestAReplyWithoutAWordIsEndured(t *testing.T) {
	t.Parallel()
	for name, reply := range map[string]string{"an empty error": "-\r\n", "an error of a blank": "- \r\n", "a deep array": strings.Repeat("*1\r\n", 100_000), "a large array": "*1000000000\r\n"} {
		t.Run(name, func(t *testing.T) {
			report := endures(t, redisops.Config{Addresses: []string{pretend(t, map[string]string{"HELLO": reply})}})
			if !report.Failed(false) {
				t.Errorf("want an error:\n%s", text(t, report))
			}
		})
	}
}

func TestAClusterOfNodesWithoutEndIsLookedAtInPart(t *testing.T) {
	t.Parallel()
	var ranges []string
	for i := range 100_000 {
		ranges = append(ranges, array(":0\r\n", ":1\r\n", array(bulk(fmt.Sprintf("127.%d.%d.%d", i>>16, i>>8&0xff, i&0xff)), ":1\r\n")))
	}
	hello := array(bulk("server"), bulk("redis"), bulk("version"), bulk("7.2.4"), bulk("mode"), bulk("cluster"), bulk("role"), bulk("master"))
	report := endures(t, redisops.Config{Topology: policy.TopologyCluster, Addresses: []string{pretend(t, map[string]string{
		"HELLO": hello, "CLUSTER SLOTS": array(ranges...), "PING": "+PONG\r\n",
	})}})
	wantFinding(t, report, doctor.Warning, doctor.CheckTopology, "only 1000 are looked at")
}

func TestRightsThatCannotBeTriedAreNotTakenForGranted(t *testing.T) {
	t.Parallel()
	hello := array(bulk("server"), bulk("redis"), bulk("version"), bulk("7.2.4"), bulk("mode"), bulk("standalone"), bulk("role"), bulk("master"))
	report := endures(t, redisops.Config{Addresses: []string{pretend(t, map[string]string{
		"HELLO": hello, "ACL WHOAMI": bulk("one"), "ACL DRYRUN": bulk("that is not for you to know"), "PING": "+PONG\r\n",
	})}})
	wantFinding(t, report, doctor.Note, doctor.CheckACL, "could not be tried", "+fcall")
	if has(report, doctor.OK, doctor.CheckACL) {
		t.Errorf("rights are taken for granted:\n%s", text(t, report))
	}
}
