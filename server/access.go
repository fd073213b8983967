package server

import (
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	"github.com/minipachd/minipachd/server/audit"
)

// access is what a call needs while auth is on, and how it is recorded.
type access struct {
	public bool              // no token
	perm   authpb.Permission // on the cluster; 0 for none
	// asks are permissions on the projects and repos that the call is about. The
	// service itself asks for them, since it knows which: for some or all of these
	// according to the request, or to decide what a listing shows.
	asks  []authpb.Permission
	class audit.Class
	grows bool // it makes something new in etcd: refused while that is full
}

var (
	anybody   = access{public: true}
	anyCaller = access{}
)

func cluster(p authpb.Permission) access { return access{perm: p} }

func (a access) asking(perms ...authpb.Permission) access {
	a.asks = perms
	return a
}

// reads is for methods that change nothing.
func reads(a access) access {
	a.class = audit.Read
	return a
}

// writes is for methods that programs call all the time to write data.
func writes(a access) access {
	a.class = audit.Data
	return a
}

// controls is for methods that change anything else, or give secrets away.
func controls(a access) access {
	a.class = audit.Control
	return a
}

// growing is for methods that make something new in etcd, files apart: those ask for
// room where they are written. What frees space, or keeps workers going, is not among
// them.
func (a access) growing() access {
	a.grows = true
	return a
}

// accessTable has every method that is served. One that is missing is refused.
var accessTable = map[string]access{
	"/grpc.health.v1.Health/Check":                                   reads(anybody),
	"/grpc.health.v1.Health/List":                                    reads(anybody),
	"/grpc.health.v1.Health/Watch":                                   reads(anybody),
	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      reads(anybody),
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": reads(anybody),
	"/versionpb_v2.API/GetVersion":                                   reads(anybody),

	"/admin_v2.API/InspectCluster":   reads(anybody),
	"/admin_v2.API/RestartPachyderm": controls(cluster(authpb.Permission_CLUSTER_RESTART_PACHYDERM)),

	// These answer by themselves: they say what is wrong with the caller's token.
	"/auth_v2.API/Activate":     controls(anybody),
	"/auth_v2.API/Authenticate": controls(anybody),
	"/auth_v2.API/Authorize":    reads(anybody),
	"/auth_v2.API/WhoAmI":       reads(anybody),
	"/auth_v2.API/GetOIDCLogin": reads(anybody),

	"/auth_v2.API/Deactivate":                 controls(cluster(authpb.Permission_CLUSTER_AUTH_DEACTIVATE)),
	"/auth_v2.API/RotateRootToken":            controls(cluster(authpb.Permission_CLUSTER_AUTH_ROTATE_ROOT_TOKEN)),
	"/auth_v2.API/GetConfiguration":           controls(cluster(authpb.Permission_CLUSTER_AUTH_GET_CONFIG)),
	"/auth_v2.API/SetConfiguration":           controls(cluster(authpb.Permission_CLUSTER_AUTH_SET_CONFIG)),
	"/auth_v2.API/GetPermissions":             reads(anyCaller),
	"/auth_v2.API/GetPermissionsForPrincipal": reads(cluster(authpb.Permission_CLUSTER_AUTH_GET_PERMISSIONS_FOR_PRINCIPAL)),
	"/auth_v2.API/GetRolesForPermission":      reads(anyCaller),
	"/auth_v2.API/ModifyRoleBinding":          controls(anyCaller.asking(authpb.Permission_CLUSTER_MODIFY_BINDINGS, authpb.Permission_PROJECT_MODIFY_BINDINGS, authpb.Permission_REPO_MODIFY_BINDINGS)),
	"/auth_v2.API/GetRoleBinding":             reads(anyCaller),
	"/auth_v2.API/GetRobotToken":              controls(cluster(authpb.Permission_CLUSTER_AUTH_GET_ROBOT_TOKEN)),
	"/auth_v2.API/RevokeAuthToken":            controls(anyCaller),
	"/auth_v2.API/RevokeAuthTokensForUser":    controls(cluster(authpb.Permission_CLUSTER_AUTH_REVOKE_USER_TOKENS)),
	"/auth_v2.API/SetGroupsForUser":           controls(cluster(authpb.Permission_CLUSTER_AUTH_MODIFY_GROUP_MEMBERS)),
	"/auth_v2.API/ModifyMembers":              controls(cluster(authpb.Permission_CLUSTER_AUTH_MODIFY_GROUP_MEMBERS)),
	"/auth_v2.API/GetGroups":                  reads(anyCaller),
	"/auth_v2.API/GetGroupsForPrincipal":      reads(cluster(authpb.Permission_CLUSTER_AUTH_GET_GROUPS)),
	"/auth_v2.API/GetUsers":                   reads(cluster(authpb.Permission_CLUSTER_AUTH_GET_GROUP_USERS)),
	"/auth_v2.API/ExtractAuthTokens":          controls(cluster(authpb.Permission_CLUSTER_AUTH_EXTRACT_TOKENS)),
	"/auth_v2.API/RestoreAuthToken":           controls(cluster(authpb.Permission_CLUSTER_AUTH_RESTORE_TOKEN)),
	"/auth_v2.API/DeleteExpiredAuthTokens":    controls(cluster(authpb.Permission_CLUSTER_AUTH_DELETE_EXPIRED_TOKENS)),

	"/enterprise_v2.API/GetState":          reads(anybody),
	"/enterprise_v2.API/GetActivationCode": reads(cluster(authpb.Permission_CLUSTER_ENTERPRISE_GET_CODE)),
	"/enterprise_v2.API/Activate":          controls(cluster(authpb.Permission_CLUSTER_ENTERPRISE_ACTIVATE)),
	"/enterprise_v2.API/Heartbeat":         reads(cluster(authpb.Permission_CLUSTER_ENTERPRISE_HEARTBEAT)),
	"/enterprise_v2.API/Deactivate":        controls(cluster(authpb.Permission_CLUSTER_ENTERPRISE_DEACTIVATE)),
	"/enterprise_v2.API/Pause":             controls(cluster(authpb.Permission_CLUSTER_ENTERPRISE_PAUSE)),
	"/enterprise_v2.API/Unpause":           controls(cluster(authpb.Permission_CLUSTER_ENTERPRISE_PAUSE)),
	"/enterprise_v2.API/PauseStatus":       reads(anyCaller),

	"/license_v2.API/Activate":          controls(cluster(authpb.Permission_CLUSTER_LICENSE_ACTIVATE)),
	"/license_v2.API/GetActivationCode": reads(cluster(authpb.Permission_CLUSTER_LICENSE_GET_CODE)),
	"/license_v2.API/AddCluster":        controls(cluster(authpb.Permission_CLUSTER_LICENSE_ADD_CLUSTER)),
	"/license_v2.API/UpdateCluster":     controls(cluster(authpb.Permission_CLUSTER_LICENSE_UPDATE_CLUSTER)),
	"/license_v2.API/DeleteCluster":     controls(cluster(authpb.Permission_CLUSTER_LICENSE_DELETE_CLUSTER)),
	"/license_v2.API/ListClusters":      reads(cluster(authpb.Permission_CLUSTER_LICENSE_LIST_CLUSTERS)),
	"/license_v2.API/DeleteAll":         controls(cluster(authpb.Permission_CLUSTER_DELETE_ALL)),
	"/license_v2.API/Heartbeat":         reads(anybody),
	"/license_v2.API/ListUserClusters":  reads(anyCaller),

	"/identity_v2.API/SetIdentityServerConfig": controls(cluster(authpb.Permission_CLUSTER_IDENTITY_SET_CONFIG)),
	"/identity_v2.API/GetIdentityServerConfig": reads(cluster(authpb.Permission_CLUSTER_IDENTITY_GET_CONFIG)),
	"/identity_v2.API/CreateIDPConnector":      controls(cluster(authpb.Permission_CLUSTER_IDENTITY_CREATE_IDP)),
	"/identity_v2.API/UpdateIDPConnector":      controls(cluster(authpb.Permission_CLUSTER_IDENTITY_UPDATE_IDP)),
	"/identity_v2.API/ListIDPConnectors":       reads(cluster(authpb.Permission_CLUSTER_IDENTITY_LIST_IDPS)),
	"/identity_v2.API/GetIDPConnector":         reads(cluster(authpb.Permission_CLUSTER_IDENTITY_GET_IDP)),
	"/identity_v2.API/DeleteIDPConnector":      controls(cluster(authpb.Permission_CLUSTER_IDENTITY_DELETE_IDP)),
	"/identity_v2.API/CreateOIDCClient":        controls(cluster(authpb.Permission_CLUSTER_IDENTITY_CREATE_OIDC_CLIENT)),
	"/identity_v2.API/UpdateOIDCClient":        controls(cluster(authpb.Permission_CLUSTER_IDENTITY_UPDATE_OIDC_CLIENT)),
	"/identity_v2.API/GetOIDCClient":           controls(cluster(authpb.Permission_CLUSTER_IDENTITY_GET_OIDC_CLIENT)),
	"/identity_v2.API/ListOIDCClients":         controls(cluster(authpb.Permission_CLUSTER_IDENTITY_LIST_OIDC_CLIENTS)),
	"/identity_v2.API/DeleteOIDCClient":        controls(cluster(authpb.Permission_CLUSTER_IDENTITY_DELETE_OIDC_CLIENT)),
	"/identity_v2.API/DeleteAll":               controls(cluster(authpb.Permission_CLUSTER_DELETE_ALL)),

	"/metadata.API/EditMetadata": controls(anyCaller.asking(authpb.Permission_PROJECT_SET_DEFAULTS, authpb.Permission_REPO_WRITE, authpb.Permission_REPO_CREATE_BRANCH, authpb.Permission_CLUSTER_EDIT_CLUSTER_METADATA)),

	"/pfs_v2.API/CreateRepo":           controls(anyCaller.asking(authpb.Permission_PROJECT_CREATE_REPO, authpb.Permission_REPO_WRITE)).growing(),
	"/pfs_v2.API/InspectRepo":          reads(anyCaller.asking(authpb.Permission_PROJECT_LIST_REPO, authpb.Permission_REPO_READ)),
	"/pfs_v2.API/ListRepo":             reads(anyCaller.asking(authpb.Permission_PROJECT_LIST_REPO, authpb.Permission_REPO_READ)),
	"/pfs_v2.API/DeleteRepo":           controls(anyCaller.asking(authpb.Permission_REPO_DELETE)),
	"/pfs_v2.API/DeleteRepos":          controls(anyCaller.asking(authpb.Permission_REPO_DELETE)),
	"/pfs_v2.API/StartCommit":          writes(anyCaller.asking(authpb.Permission_REPO_WRITE)).growing(),
	"/pfs_v2.API/FinishCommit":         writes(anyCaller.asking(authpb.Permission_REPO_WRITE)),
	"/pfs_v2.API/ClearCommit":          writes(anyCaller.asking(authpb.Permission_REPO_WRITE)),
	"/pfs_v2.API/InspectCommit":        reads(anyCaller.asking(authpb.Permission_REPO_INSPECT_COMMIT)),
	"/pfs_v2.API/ListCommit":           reads(anyCaller.asking(authpb.Permission_REPO_LIST_COMMIT)),
	"/pfs_v2.API/SubscribeCommit":      reads(anyCaller.asking(authpb.Permission_REPO_LIST_COMMIT)),
	"/pfs_v2.API/SquashCommit":         controls(anyCaller.asking(authpb.Permission_REPO_DELETE_COMMIT)),
	"/pfs_v2.API/DropCommit":           controls(anyCaller.asking(authpb.Permission_REPO_DELETE_COMMIT)),
	"/pfs_v2.API/InspectCommitSet":     reads(anyCaller.asking(authpb.Permission_REPO_INSPECT_COMMIT)),
	"/pfs_v2.API/ListCommitSet":        reads(anyCaller.asking(authpb.Permission_REPO_INSPECT_COMMIT)),
	"/pfs_v2.API/SquashCommitSet":      controls(anyCaller.asking(authpb.Permission_REPO_DELETE_COMMIT)),
	"/pfs_v2.API/DropCommitSet":        controls(anyCaller.asking(authpb.Permission_REPO_DELETE_COMMIT)),
	"/pfs_v2.API/FindCommits":          reads(anyCaller.asking(authpb.Permission_REPO_LIST_COMMIT, authpb.Permission_REPO_LIST_FILE)),
	"/pfs_v2.API/WalkCommitProvenance": reads(anyCaller.asking(authpb.Permission_REPO_INSPECT_COMMIT)),
	"/pfs_v2.API/WalkCommitSubvenance": reads(anyCaller.asking(authpb.Permission_REPO_INSPECT_COMMIT)),
	"/pfs_v2.API/CreateBranch":         controls(anyCaller.asking(authpb.Permission_REPO_CREATE_BRANCH, authpb.Permission_REPO_READ)).growing(),
	"/pfs_v2.API/InspectBranch":        reads(anyCaller.asking(authpb.Permission_REPO_LIST_BRANCH)),
	"/pfs_v2.API/ListBranch":           reads(anyCaller.asking(authpb.Permission_REPO_LIST_BRANCH)),
	"/pfs_v2.API/DeleteBranch":         controls(anyCaller.asking(authpb.Permission_REPO_DELETE_BRANCH)),
	"/pfs_v2.API/WalkBranchProvenance": reads(anyCaller.asking(authpb.Permission_REPO_LIST_BRANCH)),
	"/pfs_v2.API/WalkBranchSubvenance": reads(anyCaller.asking(authpb.Permission_REPO_LIST_BRANCH)),
	"/pfs_v2.API/ModifyFile":           writes(anyCaller.asking(authpb.Permission_REPO_WRITE, authpb.Permission_REPO_READ)),
	"/pfs_v2.API/GetFile":              reads(anyCaller.asking(authpb.Permission_REPO_READ)),
	"/pfs_v2.API/GetFileTAR":           reads(anybody.asking(authpb.Permission_REPO_READ)), // checked inside, unless a file set is read
	"/pfs_v2.API/InspectFile":          reads(anyCaller.asking(authpb.Permission_REPO_INSPECT_FILE)),
	"/pfs_v2.API/ListFile":             reads(anyCaller.asking(authpb.Permission_REPO_LIST_FILE)),
	"/pfs_v2.API/WalkFile":             reads(anyCaller.asking(authpb.Permission_REPO_READ)),
	"/pfs_v2.API/GlobFile":             reads(anyCaller.asking(authpb.Permission_REPO_READ)),
	"/pfs_v2.API/DiffFile":             reads(anyCaller.asking(authpb.Permission_REPO_READ)),
	"/pfs_v2.API/ActivateAuth":         controls(cluster(authpb.Permission_CLUSTER_AUTH_ACTIVATE)),
	"/pfs_v2.API/DeleteAll":            controls(cluster(authpb.Permission_CLUSTER_DELETE_ALL)),
	"/pfs_v2.API/Fsck":                 reads(anyCaller.asking(authpb.Permission_REPO_READ)),
	"/pfs_v2.API/CreateFileSet":        writes(anyCaller.asking(authpb.Permission_REPO_READ)),
	"/pfs_v2.API/GetFileSet":           writes(anyCaller.asking(authpb.Permission_REPO_READ)),
	"/pfs_v2.API/AddFileSet":           writes(anyCaller.asking(authpb.Permission_REPO_WRITE)),
	"/pfs_v2.API/RenewFileSet":         writes(anyCaller),
	"/pfs_v2.API/ComposeFileSet":       writes(anyCaller).growing(),
	"/pfs_v2.API/ShardFileSet":         writes(anyCaller),
	"/pfs_v2.API/CheckStorage":         reads(anyCaller.asking(authpb.Permission_REPO_READ)),
	"/pfs_v2.API/PutCache":             writes(anyCaller).growing(),
	"/pfs_v2.API/GetCache":             reads(anyCaller),
	"/pfs_v2.API/ClearCache":           controls(anyCaller),
	"/pfs_v2.API/ListTask":             reads(anyCaller),
	"/pfs_v2.API/Egress":               controls(anyCaller.asking(authpb.Permission_REPO_READ)),
	"/pfs_v2.API/CreateProject":        controls(cluster(authpb.Permission_PROJECT_CREATE).asking(authpb.Permission_PROJECT_SET_DEFAULTS)).growing(),
	"/pfs_v2.API/InspectProject":       reads(anyCaller),
	"/pfs_v2.API/InspectProjectV2":     reads(anyCaller),
	"/pfs_v2.API/ListProject":          reads(anyCaller),
	"/pfs_v2.API/DeleteProject":        controls(anyCaller.asking(authpb.Permission_PROJECT_DELETE, authpb.Permission_PROJECT_MODIFY_BINDINGS)),
	"/pfs_v2.API/ReposSummary":         reads(anyCaller.asking(authpb.Permission_PROJECT_LIST_REPO, authpb.Permission_REPO_READ)),
	"/pfs_v2.API/ForgetCommit":         controls(anyCaller),

	"/pps_v2.API/InspectJob":         reads(anyCaller.asking(authpb.Permission_PIPELINE_LIST_JOB)),
	"/pps_v2.API/InspectJobSet":      reads(anyCaller),
	"/pps_v2.API/ListJob":            reads(anyCaller.asking(authpb.Permission_PIPELINE_LIST_JOB)),
	"/pps_v2.API/ListJobSet":         reads(anyCaller),
	"/pps_v2.API/SubscribeJob":       reads(anyCaller.asking(authpb.Permission_PIPELINE_LIST_JOB)),
	"/pps_v2.API/DeleteJob":          controls(anyCaller.asking(authpb.Permission_REPO_WRITE)),
	"/pps_v2.API/StopJob":            controls(anyCaller.asking(authpb.Permission_REPO_WRITE)),
	"/pps_v2.API/InspectDatum":       reads(anyCaller.asking(authpb.Permission_PIPELINE_LIST_JOB)),
	"/pps_v2.API/ListDatum":          reads(anyCaller.asking(authpb.Permission_PIPELINE_LIST_JOB)),
	"/pps_v2.API/CreateDatum":        controls(anyCaller),
	"/pps_v2.API/RestartDatum":       controls(anyCaller.asking(authpb.Permission_REPO_WRITE)),
	"/pps_v2.API/RerunPipeline":      controls(anyCaller.asking(authpb.Permission_REPO_WRITE)),
	"/pps_v2.API/CreatePipeline":     controls(anyCaller.asking(authpb.Permission_PROJECT_CREATE_REPO)).growing(),
	"/pps_v2.API/CreatePipelineV2":   controls(anyCaller.asking(authpb.Permission_PROJECT_CREATE_REPO, authpb.Permission_REPO_WRITE)).growing(),
	"/pps_v2.API/InspectPipeline":    reads(anyCaller.asking(authpb.Permission_REPO_READ)),
	"/pps_v2.API/ListPipeline":       reads(anyCaller.asking(authpb.Permission_PROJECT_LIST_REPO, authpb.Permission_REPO_READ)),
	"/pps_v2.API/DeletePipeline":     controls(anyCaller.asking(authpb.Permission_REPO_DELETE)),
	"/pps_v2.API/DeletePipelines":    controls(anyCaller.asking(authpb.Permission_REPO_DELETE)),
	"/pps_v2.API/StartPipeline":      controls(anyCaller.asking(authpb.Permission_REPO_WRITE)),
	"/pps_v2.API/StopPipeline":       controls(anyCaller.asking(authpb.Permission_REPO_WRITE)),
	"/pps_v2.API/RunPipeline":        controls(anyCaller),
	"/pps_v2.API/RunCron":            controls(anyCaller.asking(authpb.Permission_REPO_WRITE)),
	"/pps_v2.API/CheckStatus":        reads(anyCaller),
	"/pps_v2.API/CreateSecret":       controls(cluster(authpb.Permission_CLUSTER_CREATE_SECRET)).growing(),
	"/pps_v2.API/DeleteSecret":       controls(cluster(authpb.Permission_SECRET_DELETE)),
	"/pps_v2.API/ListSecret":         reads(cluster(authpb.Permission_CLUSTER_LIST_SECRETS)),
	"/pps_v2.API/InspectSecret":      reads(cluster(authpb.Permission_SECRET_INSPECT)),
	"/pps_v2.API/DeleteAll":          controls(cluster(authpb.Permission_CLUSTER_DELETE_ALL)),
	"/pps_v2.API/GetLogs":            reads(anyCaller.asking(authpb.Permission_REPO_READ, authpb.Permission_CLUSTER_GET_PACHD_LOGS)),
	"/pps_v2.API/ActivateAuth":       controls(cluster(authpb.Permission_CLUSTER_AUTH_ACTIVATE)),
	"/pps_v2.API/UpdateJobState":     controls(anyCaller.asking(authpb.Permission_REPO_WRITE)),
	"/pps_v2.API/RunLoadTest":        controls(anyCaller),
	"/pps_v2.API/RunLoadTestDefault": controls(anyCaller),
	"/pps_v2.API/RenderTemplate":     reads(anyCaller),
	"/pps_v2.API/ListTask":           reads(anyCaller),
	"/pps_v2.API/GetKubeEvents":      reads(anyCaller),
	"/pps_v2.API/QueryLoki":          reads(cluster(authpb.Permission_CLUSTER_GET_LOKI_LOGS)),
	"/pps_v2.API/GetClusterDefaults": reads(anyCaller),
	"/pps_v2.API/SetClusterDefaults": controls(cluster(authpb.Permission_CLUSTER_SET_DEFAULTS)),
	"/pps_v2.API/GetProjectDefaults": reads(anyCaller),
	"/pps_v2.API/SetProjectDefaults": controls(anyCaller.asking(authpb.Permission_PROJECT_SET_DEFAULTS)),
	"/pps_v2.API/PipelinesSummary":   reads(anyCaller.asking(authpb.Permission_PROJECT_LIST_REPO, authpb.Permission_REPO_READ)),

	"/transaction_v2.API/BatchTransaction":   controls(anyCaller.asking(authpb.Permission_PROJECT_CREATE_REPO, authpb.Permission_REPO_WRITE, authpb.Permission_REPO_DELETE, authpb.Permission_REPO_CREATE_BRANCH, authpb.Permission_REPO_DELETE_BRANCH)),
	"/transaction_v2.API/StartTransaction":   controls(anyCaller),
	"/transaction_v2.API/InspectTransaction": reads(anyCaller.asking(authpb.Permission_CLUSTER_DELETE_ALL)),
	"/transaction_v2.API/DeleteTransaction":  controls(anyCaller.asking(authpb.Permission_CLUSTER_DELETE_ALL)),
	"/transaction_v2.API/ListTransaction":    reads(anyCaller.asking(authpb.Permission_CLUSTER_DELETE_ALL)),
	"/transaction_v2.API/FinishTransaction":  controls(anyCaller.asking(authpb.Permission_CLUSTER_DELETE_ALL)),
	"/transaction_v2.API/DeleteAll":          controls(cluster(authpb.Permission_CLUSTER_DELETE_ALL)),
}
