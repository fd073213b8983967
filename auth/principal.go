package auth

// Prefixes of subjects, and the one that stands for everybody with a token.
const (
	userPrefix     = "user:"
	robotPrefix    = "robot:"
	pipelinePrefix = "pipeline:"
	groupPrefix    = "group:"
	internalPrefix = "internal:"
	pachPrefix     = "pach:"

	// AllClusterUsers is the principal that stands for every authenticated subject.
	AllClusterUsers = "allClusterUsers"
	// RootUser is the subject of the root token.
	RootUser = "pach:root"
)

// PipelineSubject is the subject that a pipeline's workers have.
func PipelineSubject(project, pipeline string) string {
	return pipelinePrefix + project + "/" + pipeline
}
