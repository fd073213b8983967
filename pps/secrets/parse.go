package secrets

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Bounds of one secret, those of Kubernetes.
const (
	maxName  = 253
	maxBytes = 1 << 20 // all values together
)

var (
	nameForm = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	keyForm  = regexp.MustCompile(`^[-._a-zA-Z0-9]+$`)
)

// Secret is a secret in the clear, as it was submitted.
type Secret struct {
	Name, Type string
	values     map[string][]byte
}

// Parse reads the JSON of a Kubernetes Secret. Its errors are InvalidArgument.
func Parse(file []byte) (*Secret, error) {
	var in struct {
		Kind     string `json:"kind"`
		Metadata struct {
			Name   string            `json:"name"`
			Labels map[string]string `json:"labels"`
		} `json:"metadata"`
		Type       string            `json:"type"`
		Data       map[string][]byte `json:"data"`
		StringData map[string]string `json:"stringData"`
	}
	if err := json.Unmarshal(file, &in); err != nil {
		return nil, invalid("failed to unmarshal secret: %v", err)
	}
	if in.Kind != "" && in.Kind != "Secret" {
		return nil, invalid("failed to create secret: kind is %q, not \"Secret\"", in.Kind)
	}
	if suite, ok := in.Metadata.Labels["suite"]; ok && suite != "pachyderm" {
		return nil, invalid("invalid suite label set on secret: suite=%s", suite)
	}
	s := &Secret{Name: in.Metadata.Name, Type: in.Type, values: in.Data}
	if s.Type == "" {
		s.Type = "Opaque"
	}
	if s.values == nil {
		s.values = map[string][]byte{}
	}
	for k, v := range in.StringData {
		s.values[k] = []byte(v)
	}
	return s, s.check()
}

func (s *Secret) check() error {
	switch {
	case s.Name == "":
		return invalid("failed to create secret: metadata.name must be given")
	case len(s.Name) > maxName || !nameForm.MatchString(s.Name):
		return invalid("failed to create secret: metadata.name %q: at most %d lower case letters, digits, '-' and '.' are allowed, with a letter or digit first and last", s.Name, maxName)
	}
	size := 0
	for k, v := range s.values {
		if len(k) > maxName || !keyForm.MatchString(k) || k == "." || strings.HasPrefix(k, "..") {
			return invalid("failed to create secret: key %q of secret %q: at most %d letters, digits, '-', '_' and '.' are allowed, and no \"..\" in front", k, s.Name, maxName)
		}
		size += len(k) + len(v)
	}
	if size > maxBytes {
		return invalid("failed to create secret: the values of secret %q have %d bytes, more than %d", s.Name, size, maxBytes)
	}
	return nil
}

// String keeps the values out of logs.
func (s *Secret) String() string { return fmt.Sprintf("secret %q with %d keys", s.Name, len(s.values)) }

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}
