package client_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"time"

	"google.golang.org/grpc"

	"github.com/penstock-dev/penstock/client"
)

// A penstockd that cannot be reached does not stop a program: OnFailure says how requests are answered until it has told
// what their policy says.
func ExampleMiddleware() {
	limiter, err := client.New("http://127.0.0.1:1", client.Options{OnFailure: client.Deny})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = limiter.Close() }()

	orders := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ordered") })
	limit := client.Middleware(limiter, "shop/api-per-ip",
		client.WithTrustedProxies(netip.MustParsePrefix("10.0.0.0/8")),
		client.WithHeaders("X-API-Key"))
	handler := limit(orders) // for an http.Server

	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "/orders", nil))
	fmt.Println(answer.Code, answer.Header().Get("X-Penstock-Degraded"), answer.Header().Get("Retry-After"))
	// Output: 429 service 1
}

// What the program knows of a request, such as the user of its session, is an attribute too; and what was not served is
// not charged.
func ExampleMiddleware_users() {
	limiter, err := client.New("https://penstockd.penstock-system:8080", client.Options{
		Token: client.TokenFile("/var/run/secrets/penstock/token"),
	})
	if err != nil {
		log.Fatal(err)
	}
	userOf := func(r *http.Request) map[string]string {
		user, _, _ := r.BasicAuth()
		return map[string]string{"user": user}
	}
	http.Handle("/reports/", client.Middleware(limiter, "shop/reports-per-user",
		client.WithSubject(userOf),
		client.WithRefund(func(status int) bool { return status >= http.StatusInternalServerError }),
	)(http.NotFoundHandler()))
}

func ExampleConcurrencyMiddleware() {
	limiter, err := client.New("http://penstockd:8080", client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	export := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { /* takes minutes */ })
	http.Handle("/export", client.ConcurrencyMiddleware(limiter, "shop/exports", client.WithSlotTTL(time.Minute))(export))
}

func ExampleUnaryServerInterceptor() {
	limiter, err := client.New("http://penstockd:8080", client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(
		grpc.UnaryInterceptor(client.UnaryServerInterceptor(limiter, "shop/api-per-ip")),
		grpc.StreamInterceptor(client.StreamServerInterceptor(limiter, "shop/api-per-ip")),
	)
	fmt.Println(len(server.GetServiceInfo()), "services so far")
	// Output: 0 services so far
}

// A Direct decides in the process of the program, by the policies that the operator has published in Redis.
func ExampleNewDirect() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	limiter, err := client.NewDirect(ctx, client.DirectOptions{Redis: "redis://redis:6379", Password: "…"})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = limiter.Close() }()

	verdict, err := limiter.Check(ctx, client.Request{
		Policy:  "shop/mails-per-user",
		Subject: map[string]string{"user": "42"},
		Cost:    3,
	})
	switch {
	case err != nil:
		log.Fatal(err)
	case !verdict.Allowed:
		fmt.Println("again in", verdict.RetryAfter)
	default:
		fmt.Println(verdict.Remaining, "left")
	}
}
