// Package service is penstockd without its flags: the doors, health, metrics and an orderly end, around an engine.
//
//	svc, err := service.New(service.Config{HTTP: ":8080", GRPC: ":8081", Metrics: ":9090"}, engine, registry, logger)
//	...
//	svc.Addresses()      // what it listens on: New has opened the ports
//	err = svc.Run(ctx)   // serves until ctx ends, then drains
//
// Each door has a package of its own: rls (with /json), extauthz, forwardauth, api. What they tell HTTP clients is in answers,
// where a request began in origin, who asks in callers.
package service
