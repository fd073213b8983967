package auth

import (
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Prefixes of subjects.
const (
	userPrefix     = "user:"
	robotPrefix    = "robot:"
	pipelinePrefix = "pipeline:"
	groupPrefix    = "group:"
	internalPrefix = "internal:"
	pachPrefix     = "pach:"
)

const (
	// AllClusterUsers is the principal that stands for every authenticated subject.
	AllClusterUsers = "allClusterUsers"
	// RootUser is the subject of the root token.
	RootUser = "pach:root"

	// maxName bounds principals and names of resources, in bytes.
	maxName = 1024
)

// PipelineSubject is the subject that a pipeline's workers have.
func PipelineSubject(project, pipeline string) string {
	return pipelinePrefix + project + "/" + pipeline
}

// IsPipeline tells whether a subject is that of a pipeline's workers.
func IsPipeline(subject string) bool { return strings.HasPrefix(subject, pipelinePrefix) }

// IsInternal tells whether a subject is the daemon itself.
func IsInternal(subject string) bool { return strings.HasPrefix(subject, internalPrefix) }

// checkPrincipal refuses what cannot have roles or be a member of a group.
func checkPrincipal(p string) error {
	if p == AllClusterUsers {
		return nil
	}
	prefix, name, ok := strings.Cut(p, ":")
	if !ok {
		return errNoPrefix
	}
	switch prefix + ":" {
	case userPrefix, robotPrefix, pipelinePrefix, groupPrefix, pachPrefix:
	case internalPrefix:
		return invalid("%s is the server itself: it has no roles and needs none", quoted(p))
	default:
		return status.Errorf(codes.Unknown, "subject has unrecognized prefix: %s:", short(prefix))
	}
	switch {
	case name == "":
		return invalid("subject %q has no name after its prefix", p)
	case len(p) > maxName:
		return invalid("a subject of %d bytes is too long, at most %d are possible", len(p), maxName)
	}
	return nil
}

// checkSubject is checkPrincipal for those who can have tokens and groups.
func checkSubject(s string) error {
	switch {
	case s == AllClusterUsers:
		return invalid("%s stands for all subjects and is none itself", s)
	case strings.HasPrefix(s, groupPrefix):
		return invalid("%s is a group; want a subject, such as user:<email> or robot:<name>", quoted(s))
	}
	return checkPrincipal(s)
}

// groupName gives a group its prefix, which requests may leave out.
func groupName(g string) (string, error) {
	name := strings.TrimPrefix(g, groupPrefix)
	switch {
	case name == "":
		return "", invalid("a group must have a name")
	case len(name) > maxName:
		return "", invalid("a group's name of %d bytes is too long, at most %d are possible", len(name), maxName)
	case strings.Contains(name, ":"):
		return "", invalid("%s is not the name of a group: it has a colon", quoted(g))
	}
	return groupPrefix + name, nil
}

// short cuts what a client sent to what fits into a message.
func short(s string) string {
	if len(s) > 100 {
		return strings.ToValidUTF8(s[:100], "") + "..."
	}
	return s
}

func quoted(s string) string { return `"` + short(s) + `"` }
