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

// ParseURL reads redis://[user[:password]@]host[:port][/db]. What else a URL can carry is refused, since ignoring an
// option would be worse. Errors never hold the password.
func ParseURL(rawURL string) (Config, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		// The error of url.Parse quotes the URL or parts of it, and with them the password.
		return Config{}, errors.New("redis URL: no URL; want redis://[user[:password]@]host:port[/db], with what is special in " +
			"the password percent-encoded (/ is %2F, @ is %40)")
	}
	if u.Scheme != "redis" {
		return Config{}, fmt.Errorf("redis URL: scheme %q; want redis://[user[:password]@]host:port[/db]", u.Scheme)
	}
	if u.Hostname() == "" {
		return Config{}, errors.New("redis URL: no host; want redis://[user[:password]@]host:port[/db]")
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return Config{}, errors.New("redis URL: options after ? or # are not supported; remove them")
	}
	port := u.Port()
	if port == "" {
		port = DefaultPort
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return Config{}, fmt.Errorf("redis URL: port %q; want 1 to 65535", port)
	}
	db, err := parseDB(u.Path)
	if err != nil {
		return Config{}, err
	}
	password, _ := u.User.Password()
	return Config{
		Addresses: []string{net.JoinHostPort(u.Hostname(), port)},
		Username:  u.User.Username(),
		Password:  password,
		DB:        db,
	}.WithDefaults(), nil
}

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
