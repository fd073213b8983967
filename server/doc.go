// Package server puts the daemon together: configuration, the data directory,
// one listener for gRPC and REST, interceptors, health, and the services of
// pfs, pps and auth. It holds no rules of their domains.
package server
