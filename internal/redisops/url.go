package redisops

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// DefaultPort is the port of an address without one.
const DefaultPort = "6379"

// urlForm is what a URL has to look like.
const urlForm = "redis://[user[:password]@]host:port[,host:port…][/db], or rediss:// for TLS"

// errNoURL says nothing of the URL, since any part of it may be one of the password.
var errNoURL = errors.New("redis URL: no URL; want " + urlForm + ", with what is special in the password percent-encoded (/ is %2F, @ is %40)")

// ParseURL reads redis://[user[:password]@]host[:port][,host[:port]…][/db], or rediss:// for TLS. What else a URL can carry
// is refused, since ignoring an option would be worse. Errors never hold the password.
func ParseURL(rawURL string) (Config, error) {
	scheme, rest, found := strings.Cut(rawURL, "://")
	if !found || (scheme != "redis" && scheme != "rediss") {
		return Config{}, errors.New("redis URL: the scheme is neither redis nor rediss; want " + urlForm)
	}
	authority, path := rest, ""
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		authority, path = rest[:end], rest[end:]
	}
	if strings.Contains(path, "@") { // the beginning of it stands in the password
		return Config{}, errNoURL
	}
	credentials, hosts := "", authority
	if end := strings.LastIndexByte(authority, '@'); end >= 0 {
		credentials, hosts = authority[:end+1], authority[end+1:]
	}
	// url.Parse takes one host; its errors quote the URL.
	u, err := url.Parse("redis://" + credentials + "host" + path)
	if err != nil {
		return Config{}, errNoURL
	}
	if u.RawQuery != "" || u.Fragment != "" || strings.ContainsAny(path, "?#") {
		return Config{}, errors.New("redis URL: options after ? or # are not supported; remove them")
	}
	db, err := parseDB(u.Path)
	if err != nil {
		return Config{}, err
	}
	addresses, err := parseHosts(hosts)
	if err != nil {
		return Config{}, err
	}
	password, _ := u.User.Password()
	cfg := Config{Addresses: addresses, Username: u.User.Username(), Password: password, DB: db}
	if scheme == "rediss" {
		cfg.TLS = &TLS{}
	}
	return cfg.WithDefaults(), nil
}

// parseHosts reads host[:port] several times, with commas between.
func parseHosts(hosts string) ([]string, error) {
	var addresses []string
	for host := range strings.SplitSeq(hosts, ",") {
		u, err := url.Parse("redis://" + host)
		if err != nil || u.Host != host {
			// Not quoted: with a mistake before, it may be the end of a password.
			if name, port, found := strings.Cut(host, ":"); found && name != "" && !strings.Contains(port, ":") {
				return nil, errWrongPort
			}
			return nil, errNoURL
		}
		if u.Hostname() == "" {
			return nil, errors.New("redis URL: no host; want " + urlForm)
		}
		port := u.Port()
		if port == "" {
			port = DefaultPort
		}
		address := net.JoinHostPort(u.Hostname(), port)
		if !isHostPort(address) {
			return nil, errWrongPort
		}
		addresses = append(addresses, address)
	}
	return addresses, nil
}

var errWrongPort = errors.New("redis URL: the port of a host is no number from 1 to 65535; mend it")

func parseDB(path string) (int, error) {
	number := strings.TrimPrefix(path, "/")
	if number == "" {
		return 0, nil
	}
	db, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("redis URL: database %q; want a number such as /0", number)
	}
	return int(db), nil
}
