package proxies

import (
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// proxy is a real one, with the configuration of its page.
type proxy struct {
	// start runs it and gives its address, once it listens.
	start func(t *testing.T, s site) string
	// page and policyURL are the page, and how it writes the URL to ask; the page's block "domain" has the other one.
	page, policyURL string
	// figures tells whether allowed requests get the headers of penstockd.
	figures bool
	// plainBody tells that the client gets the body that the page has, in the place of penstockd's.
	plainBody bool
	// status changes the page's configuration for a RateLimit that denies by 503.
	status func(t *testing.T) []string
	// ownStatus is what clients get of such a denial; 200: the page says that it does not deny.
	ownStatus int
	// failOpen and failClosed change the page's configuration in the ways that it tells; nil where there is no such way.
	failOpen, failClosed func(t *testing.T) []string
	// goneStatus and silentStatus are what clients get with failClosed while penstockd cannot be connected to, and while it
	// does not answer. None: nothing bounds how long the proxy waits for an answer.
	goneStatus, silentStatus int
}

func unchanged(*testing.T) []string { return nil }

var proxies = map[string]proxy{
	"nginx": {
		start: startNginx, page: "nginx.md", policyURL: "proxy_pass http://penstockd/auth/shop/api-per-ip?nginx=1;", figures: true, plainBody: true,
		status: func(t *testing.T) []string {
			t.Helper()
			const denial = "        default_type application/problem+json;"
			return []string{denial, block(t, "nginx.md", "status") + denial}
		},
		ownStatus: 503,
		failOpen:  unchanged,
		failClosed: func(*testing.T) []string {
			return []string{"proxy_intercept_errors on;", "", "error_page 500 502 503 504 = @penstock_unknown;", ""}
		},
		goneStatus: 500, silentStatus: 500,
	},
	"HAProxy": {
		start: startHAProxy, page: "haproxy.md", policyURL: "http-request lua.penstock /auth/shop/api-per-ip allow", figures: true,
		status: unchanged, ownStatus: 503,
		failOpen: unchanged,
		failClosed: func(*testing.T) []string {
			return []string{"/auth/shop/api-per-ip allow", "/auth/shop/api-per-ip deny"}
		},
		goneStatus: 503, silentStatus: 503,
	},
	"Caddy": {
		start: startCaddy("config"), page: "caddy.md", policyURL: "uri /auth/shop/api-per-ip?",
		status: unchanged, ownStatus: 503,
		failClosed: unchanged, goneStatus: 502, silentStatus: 504,
		failOpen: openCaddy("forward_auth 127.0.0.1:8080 {"),
	},
	"Caddy, written out": {
		start: startCaddy("headers"), page: "caddy.md", policyURL: "rewrite /auth/shop/api-per-ip?", figures: true,
		status: unchanged, ownStatus: 503,
		failClosed: unchanged, goneStatus: 502, silentStatus: 504,
		failOpen: openCaddy("reverse_proxy 127.0.0.1:8080 {"),
	},
	"Traefik": {
		start: startTraefik, page: "traefik.md", policyURL: "address: http://127.0.0.1:8080/auth/shop/api-per-ip",
		status: unchanged, ownStatus: 503,
		failClosed: unchanged, goneStatus: 500,
	},
	"Traefik, open": {
		start: startOpenTraefik, page: "traefik.md", policyURL: "address: http://127.0.0.1:8080/auth/shop/api-per-ip",
		status: unchanged, ownStatus: 200,
		failOpen: unchanged,
	},
}

func startNginx(t *testing.T, s site) string {
	t.Helper()
	dir, address := t.TempDir(), freeAddress(t)
	config := s.in(t, block(t, "nginx.md", "config"), "100ms", "20s")
	config = `
daemon off;
master_process off; # else its workers are another user, who may not look into the folder of the test
pid ` + dir + `/pid;
error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path ` + dir + `/body;
	proxy_temp_path ` + dir + `/proxy;
	fastcgi_temp_path ` + dir + `/fastcgi;
	uwsgi_temp_path ` + dir + `/uwsgi;
	scgi_temp_path ` + dir + `/scgi;
` + replace(t, config, "listen 80;", "listen "+address+";") + "}\n"
	process(t, address, exec.Command(tool(t, "nginx"), "-p", dir, "-e", "stderr", "-c", write(t, dir, "nginx.conf", config)))
	return address
}

func startHAProxy(t *testing.T, s site) string {
	t.Helper()
	dir, address := t.TempDir(), freeAddress(t)
	// An abstract socket is the whole machine's.
	const socket = "abns@penstock"
	ownSocket := socket + "-test-" + portOf(t, address)
	script := replace(t, readPage(t, "haproxy/penstock.lua"), socket, ownSocket)
	config := s.in(t, block(t, "haproxy.md", "config"), "timeout connect 50ms", "timeout connect 20s", "timeout server 100ms", "timeout server 20s")
	if !s.hurried {
		script = replace(t, script, "TIMEOUT = 200", "TIMEOUT = 41000")
	}
	config = replace(t, config, "/etc/haproxy/penstock.lua", write(t, dir, "penstock.lua", script), "bind :80", "bind "+address, socket, ownSocket)
	process(t, address, exec.Command(tool(t, "haproxy"), "-db", "-f", write(t, dir, "haproxy.cfg", config)))
	return address
}

// startCaddy runs the block of that name.
func startCaddy(name string) func(t *testing.T, s site) string {
	return func(t *testing.T, s site) string {
		t.Helper()
		dir, address := t.TempDir(), freeAddress(t)
		config := s.in(t, block(t, "caddy.md", name), "100ms", "20s")
		config = "{\n\tadmin off\n\tauto_https off\n\tdefault_bind " + here + "\n}\n" + replace(t, config, ":80 {", ":"+portOf(t, address)+" {")
		cmd := exec.Command(tool(t, "caddy"), "run", "--adapter", "caddyfile", "--config", write(t, dir, "Caddyfile", config))
		cmd.Env = []string{"HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}
		process(t, address, cmd)
		return address
	}
}

// openCaddy adds the site that allows everything, to be asked where penstockd is.
func openCaddy(asked string) func(t *testing.T) []string {
	return func(t *testing.T) []string {
		t.Helper()
		const everybody = "127.0.0.1:2020"
		address := freeAddress(t)
		open := replace(t, block(t, "caddy.md", "open"), "forward_auth 127.0.0.1:8080 "+everybody+" {", replace(t, asked, " {", " "+address+" {"))
		return []string{asked, open, ":80 {", replace(t, block(t, "caddy.md", "everybody"), everybody, address) + "\n:80 {"}
	}
}

func startTraefik(t *testing.T, s site) string {
	t.Helper()
	return runTraefik(t, block(t, "traefik.md", "static"), s.in(t, block(t, "traefik.md", "config")))
}

// startOpenTraefik runs one that asks through itself, to let requests pass while penstockd is gone.
func startOpenTraefik(t *testing.T, s site) string {
	t.Helper()
	const itself = "127.0.0.1:8070"
	address := freeAddress(t)
	open := block(t, "traefik.md", "open")
	if !s.hurried {
		open = replace(t, open, "100ms", "20s")
	}
	// Both are parts of one file.
	more := strings.TrimPrefix(replace(t, block(t, "traefik.md", "open-static"), itself, address), "entryPoints:\n")
	static := block(t, "traefik.md", "static") + more
	open = replace(t, open, pagePenstockd, s.penstockd)
	s.penstockd = address
	return runTraefik(t, static, s.in(t, block(t, "traefik.md", "config")), open)
}

// runTraefik runs one, with the text of files of its dynamic configuration.
func runTraefik(t *testing.T, static string, dynamic ...string) string {
	t.Helper()
	dir, files, address, api := t.TempDir(), t.TempDir(), freeAddress(t), freeAddress(t)
	for i, text := range dynamic {
		write(t, files, strconv.Itoa(i)+".yaml", text)
	}
	static = replace(t, static, "address: :80", "address: "+address, edgeNetwork, edge+"/32", "entryPoints:\n", "entryPoints:\n  traefik:\n    address: "+api+"\n")
	static += "providers:\n  file:\n    directory: " + files + "\napi:\n  insecure: true\n  dashboard: false\n"
	process(t, address, exec.Command(tool(t, "traefik"), "--configfile="+write(t, dir, "static.yaml", static)))
	// It listens there before it listens at the other address, and there before it has read the rest.
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		response, err := http.Get("http://" + api + "/api/http/routers/shop@file")
		if err != nil {
			continue
		}
		_ = response.Body.Close()
		if response.StatusCode == http.StatusOK {
			return address
		}
	}
	t.Fatal("Traefik does not read its configuration")
	return ""
}

// portOf gives the port of host:port.
func portOf(t *testing.T, address string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return port
}
