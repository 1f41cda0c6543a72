// Package client lets Go programs spend from the budgets of RateLimits, and limit what they serve.
//
// There are two ways to ask, and both give a Limiter: New asks penstockd, and NewDirect decides in this process by the Redis
// of the RedisStore, without a hop in between. Middleware and the interceptors put a Limiter in front of what a program
// serves over HTTP or gRPC: they deny what is too much, and set the headers that the policy asks for.
//
//	limiter, err := client.New("http://penstockd:8080", client.Options{})
//	if err != nil {
//		return err
//	}
//	defer limiter.Close()
//	limit := client.Middleware(limiter, "shop/api-per-ip")
//	return http.ListenAndServe(":8000", limit(handler))
//
// When nobody can decide, because Redis or penstockd cannot be asked, the policy's onStoreFailure does, and the verdict says
// so (Verdict.Degraded). Everything else that keeps a decision from being made is an error, which the middleware answers
// with 500: a wrong name of a policy, say, does not switch its limit off.
package client
