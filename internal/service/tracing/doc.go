// Package tracing makes OpenTelemetry traces of requests and sends them to a collector: a span for each request at a door,
// and below it, made by the engine, one for each call of Redis.
//
// A span holds names of doors, methods and policies, codes, and what was decided. It holds nothing of what a user sent: no
// path, address, header, descriptor or id. For that reason the usual instrumentation of net/http and gRPC is not used,
// which records some of those. Of the headers of W3C Trace Context only traceparent is taken; tracestate and baggage are
// anybody's text.
//
// It is configured by the environment variables of the OpenTelemetry specification: OTEL_EXPORTER_OTLP_* (gRPC is the one
// protocol), OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG, OTEL_BSP_*, OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
//
// Nothing waits for the collector. While it does not answer, spans are dropped.
package tracing
