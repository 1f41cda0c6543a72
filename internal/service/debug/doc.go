// Package debug is what penstockd tells of its inside, to somebody on the same host or in the same pod alone:
//
//	/debug/top     the subjects that were denied most often of late
//	/debug/pprof/  profiles of the process, where they are asked for
//
// Both show what is nobody else's business: values of users, and memory. So they answer a connection from 127.0.0.1 or ::1,
// which is where `kubectl port-forward` and `kubectl exec` come from, and nobody else; see Local.
package debug
