// Package oidc lets users log in with an OpenID Connect issuer: by the
// authorization code flow with PKCE, where the browser ends at the daemon's
// callback and whoever began the login waits for it, or by an ID token that the
// user has got elsewhere.
//
// What has begun is kept in etcd, so any daemon may take the callback. The package
// says who somebody is, and nothing of what he may do: tokens, groups and
// permissions are those of package auth.
package oidc
