package server_test

import (
	"fmt"
	"strings"
	"testing"
)

// matrixScene makes what the rows are about: project mp with a repo r, a pipeline p
// and a repo down whose branch is made from both, and turns auth on. Nobody gets
// roles by being somebody. What it returns fills in requests.
func matrixScene(t *testing.T, w *wire) *strings.Replacer {
	t.Helper()
	repo := func(name string) string {
		return fmt.Sprintf(`{"name":%q,"type":"user","project":{"name":"mp"}}`, name)
	}
	branch := func(of string) string { return `{"name":"master","repo":` + repo(of) + `}` }
	w.ok("pfs_v2.API/CreateProject", `{"project":{"name":"mp"}}`)
	w.ok("pfs_v2.API/CreateProject", `{"project":{"name":"other"}}`)
	for _, name := range []string{"r", "down"} {
		w.ok("pfs_v2.API/CreateRepo", `{"repo":`+repo(name)+`}`)
	}
	w.ok("pfs_v2.API/CreateRepo", `{"repo":{"name":"r","type":"user","project":{"name":"other"}}}`)
	master := func() string {
		return strings.Split(w.ok("pfs_v2.API/InspectCommit", `{"commit":{"repo":`+repo("r")+`,"branch":`+branch("r")+`}}`).messages[0], `"id":"`)[1][:32]
	}
	var first string
	for range 2 {
		if a := w.putAs(`{"repo":`+repo("r")+`,"branch":`+branch("r")+`}`, "/f", "content"); a.err != nil {
			t.Fatal(a)
		}
		if first == "" {
			first = master()
		}
	}
	w.created(`{"pipeline":{"name":"p","project":{"name":"mp"}},"spout":{},"transform":{"cmd":["sleep","1000"]}}`)
	w.ok("pfs_v2.API/CreateBranch", `{"branch":`+branch("down")+`,"provenance":[`+branch("r")+`,`+branch("p")+`]}`)
	head := master()

	w.ok("auth_v2.API/Activate", `{"rootToken":"root"}`)
	w.mustAs("root", "pfs_v2.API/ActivateAuth", `{}`)
	w.mustAs("root", "pps_v2.API/ActivateAuth", `{}`)
	w.mustAs("root", "auth_v2.API/ModifyRoleBinding", `{"resource":{"type":"CLUSTER"},"principal":"allClusterUsers"}`)
	w.mustAs("root", "auth_v2.API/ModifyRoleBinding", `{"resource":{"type":"PROJECT","name":"default"},"principal":"allClusterUsers"}`)
	txn := func() string {
		return strings.Split(w.mustAs("root", "transaction_v2.API/StartTransaction", `{}`).messages[0], `"`)[3]
	}
	const missing = "0123456789ab4def0123456789abcdef"
	return strings.NewReplacer(
		"<r>", repo("r"), "<p>", `{"name":"p","project":{"name":"mp"}}`, "<down>", repo("down"),
		"<meta>", strings.Replace(repo("r"), "user", "meta", 1), "<spec>", strings.Replace(repo("p"), "user", "spec", 1),
		"<b>", branch("r"), "<nob>", strings.Replace(branch("r"), "master", "none", 1), "<newdown>", strings.Replace(branch("down"), "master", "new", 1),
		"<c>", `{"repo":`+repo("r")+`,"branch":`+branch("r")+`}`, "<noc>", `{"repo":`+repo("r")+`,"id":"`+missing+`"}`,
		"<nocdown>", `{"repo":`+repo("down")+`,"id":"`+missing+`"}`,
		"<job>", `{"id":"`+missing+`","pipeline":{"name":"r","project":{"name":"mp"}}}`,
		"<first>", first, "<head>", head, "<missing>", missing, "<txn1>", txn(), "<txn2>", txn(), "<txn3>", txn(),
		"<pickr>", `{"name":{"project":{"name":"mp"},"name":"r","type":"user"}}`,
		"<pickb>", `{"name":{"repo":{"name":{"project":{"name":"mp"},"name":"r","type":"user"}},"name":"master"}}`,
		"<pickp>", `{"name":{"project":{"name":"mp"},"name":"p"}}`,
		"<pickc>", `{"branchHead":{"name":{"repo":{"name":{"project":{"name":"mp"},"name":"r","type":"user"}},"name":"master"}}}`,
	)
}

// matrixRow is a call and who may make it.
type matrixRow struct {
	method, request string
	needs           string // see caller.may; nothing but a token if empty
	through         judge  // reads from the answer whether the caller was let through
	shows           string // is in the answer for those who are, if there is no judge
	last            bool   // who may make it spoils it for others
	endless         bool   // the answer goes on: its first message is enough
}

// matrixRows has at least one row for every method. Requests that are let through fail
// by something else where they would change anything.
func matrixRows() []matrixRow {
	rows := []matrixRow{
		{method: "versionpb_v2.API/GetVersion", request: `{}`},
		{method: "admin_v2.API/InspectCluster", request: `{"currentProject":{"name":"mp"}}`},
		{method: "admin_v2.API/RestartPachyderm", request: `{}`, needs: "CLUSTER_RESTART_PACHYDERM cluster"},
	}
	rows = append(rows, accessRows()...)
	rows = append(rows, fileRows()...)
	rows = append(rows, pipelineRows()...)
	return append(rows, sharedRows()...)
}

// accessRows are of auth, enterprise, license and identity.
func accessRows() []matrixRow {
	const set = `{"resource":{"type":%q,"name":%q},"principal":"robot:nobody","roles":[]}`
	return []matrixRow{
		{method: "auth_v2.API/Activate", request: `{}`},
		{method: "auth_v2.API/Authenticate", request: `{}`},
		{method: "auth_v2.API/GetOIDCLogin", request: `{}`},
		{method: "auth_v2.API/Authorize", request: `{"resource":{"type":"REPO","name":"mp/r"},"permissions":["REPO_READ"]}`},
		{method: "auth_v2.API/WhoAmI", request: `{}`},
		{method: "auth_v2.API/GetPermissions", request: `{"resource":{"type":"CLUSTER"}}`},
		{method: "auth_v2.API/GetPermissionsForPrincipal", request: `{"resource":{"type":"CLUSTER"},"principal":"robot:nobody"}`, needs: "CLUSTER_AUTH_GET_PERMISSIONS_FOR_PRINCIPAL cluster"},
		{method: "auth_v2.API/GetRolesForPermission", request: `{"permission":"REPO_READ"}`},
		{method: "auth_v2.API/ModifyRoleBinding", request: fmt.Sprintf(set, "CLUSTER", ""), needs: "CLUSTER_MODIFY_BINDINGS cluster"},
		{method: "auth_v2.API/ModifyRoleBinding", request: fmt.Sprintf(set, "PROJECT", "mp"), needs: "PROJECT_MODIFY_BINDINGS mp"},
		{method: "auth_v2.API/ModifyRoleBinding", request: fmt.Sprintf(set, "REPO", "mp/r"), needs: "REPO_MODIFY_BINDINGS mp/r"},
		{method: "auth_v2.API/ModifyRoleBinding", request: fmt.Sprintf(set, "REPO", "mp/down"), needs: "REPO_MODIFY_BINDINGS mp/down"},
		{method: "auth_v2.API/GetRoleBinding", request: `{"resource":{"type":"CLUSTER"}}`},
		{method: "auth_v2.API/GetRobotToken", request: `{"robot":"nobody"}`, needs: "CLUSTER_AUTH_GET_ROBOT_TOKEN cluster"},
		{method: "auth_v2.API/RevokeAuthToken", request: `{"token":"x"}`},
		{method: "auth_v2.API/RevokeAuthTokensForUser", request: `{"username":"robot:nobody"}`, needs: "CLUSTER_AUTH_REVOKE_USER_TOKENS cluster"},
		{method: "auth_v2.API/SetGroupsForUser", request: `{"username":"robot:nobody","groups":["g"]}`, needs: "CLUSTER_AUTH_MODIFY_GROUP_MEMBERS cluster"},
		{method: "auth_v2.API/ModifyMembers", request: `{"group":"g","add":["robot:nobody"]}`, needs: "CLUSTER_AUTH_MODIFY_GROUP_MEMBERS cluster"},
		{method: "auth_v2.API/GetGroups", request: `{}`},
		{method: "auth_v2.API/GetGroupsForPrincipal", request: `{"principal":"robot:nobody"}`, needs: "CLUSTER_AUTH_GET_GROUPS cluster"},
		{method: "auth_v2.API/GetUsers", request: `{"group":"g"}`, needs: "CLUSTER_AUTH_GET_GROUP_USERS cluster"},
		{method: "auth_v2.API/ExtractAuthTokens", request: `{}`, needs: "CLUSTER_AUTH_EXTRACT_TOKENS cluster"},
		{method: "auth_v2.API/RestoreAuthToken", request: `{}`, needs: "CLUSTER_AUTH_RESTORE_TOKEN cluster"},
		{method: "auth_v2.API/DeleteExpiredAuthTokens", request: `{}`, needs: "CLUSTER_AUTH_DELETE_EXPIRED_TOKENS cluster"},
		{method: "auth_v2.API/GetConfiguration", request: `{}`, needs: "CLUSTER_AUTH_GET_CONFIG cluster"},
		{method: "auth_v2.API/SetConfiguration", request: `{"configuration":{"issuer":"x"}}`, needs: "CLUSTER_AUTH_SET_CONFIG cluster"},
		{method: "auth_v2.API/RotateRootToken", request: `{}`, needs: "CLUSTER_AUTH_ROTATE_ROOT_TOKEN cluster", last: true},

		{method: "enterprise_v2.API/GetState", request: `{}`},
		{method: "enterprise_v2.API/GetActivationCode", request: `{}`, needs: "CLUSTER_ENTERPRISE_GET_CODE cluster"},
		{method: "enterprise_v2.API/Activate", request: `{}`, needs: "CLUSTER_ENTERPRISE_ACTIVATE cluster"},
		{method: "enterprise_v2.API/Heartbeat", request: `{}`, needs: "CLUSTER_ENTERPRISE_HEARTBEAT cluster"},
		{method: "enterprise_v2.API/Deactivate", request: `{}`, needs: "CLUSTER_ENTERPRISE_DEACTIVATE cluster"},
		{method: "enterprise_v2.API/Pause", request: `{}`, needs: "CLUSTER_ENTERPRISE_PAUSE cluster"},
		{method: "enterprise_v2.API/Unpause", request: `{}`, needs: "CLUSTER_ENTERPRISE_PAUSE cluster"},
		{method: "enterprise_v2.API/PauseStatus", request: `{}`},

		{method: "license_v2.API/Activate", request: `{}`, needs: "CLUSTER_LICENSE_ACTIVATE cluster"},
		{method: "license_v2.API/GetActivationCode", request: `{}`, needs: "CLUSTER_LICENSE_GET_CODE cluster"},
		{method: "license_v2.API/AddCluster", request: `{}`, needs: "CLUSTER_LICENSE_ADD_CLUSTER cluster"},
		{method: "license_v2.API/UpdateCluster", request: `{}`, needs: "CLUSTER_LICENSE_UPDATE_CLUSTER cluster"},
		{method: "license_v2.API/DeleteCluster", request: `{}`, needs: "CLUSTER_LICENSE_DELETE_CLUSTER cluster"},
		{method: "license_v2.API/ListClusters", request: `{}`, needs: "CLUSTER_LICENSE_LIST_CLUSTERS cluster"},
		{method: "license_v2.API/DeleteAll", request: `{}`, needs: "CLUSTER_DELETE_ALL cluster", last: true},
		{method: "license_v2.API/Heartbeat", request: `{}`},
		{method: "license_v2.API/ListUserClusters", request: `{}`},

		{method: "identity_v2.API/SetIdentityServerConfig", request: `{}`, needs: "CLUSTER_IDENTITY_SET_CONFIG cluster"},
		{method: "identity_v2.API/GetIdentityServerConfig", request: `{}`, needs: "CLUSTER_IDENTITY_GET_CONFIG cluster"},
		{method: "identity_v2.API/CreateIDPConnector", request: `{}`, needs: "CLUSTER_IDENTITY_CREATE_IDP cluster"},
		{method: "identity_v2.API/UpdateIDPConnector", request: `{}`, needs: "CLUSTER_IDENTITY_UPDATE_IDP cluster"},
		{method: "identity_v2.API/ListIDPConnectors", request: `{}`, needs: "CLUSTER_IDENTITY_LIST_IDPS cluster"},
		{method: "identity_v2.API/GetIDPConnector", request: `{}`, needs: "CLUSTER_IDENTITY_GET_IDP cluster"},
		{method: "identity_v2.API/DeleteIDPConnector", request: `{}`, needs: "CLUSTER_IDENTITY_DELETE_IDP cluster"},
		{method: "identity_v2.API/CreateOIDCClient", request: `{}`, needs: "CLUSTER_IDENTITY_CREATE_OIDC_CLIENT cluster"},
		{method: "identity_v2.API/UpdateOIDCClient", request: `{}`, needs: "CLUSTER_IDENTITY_UPDATE_OIDC_CLIENT cluster"},
		{method: "identity_v2.API/GetOIDCClient", request: `{}`, needs: "CLUSTER_IDENTITY_GET_OIDC_CLIENT cluster"},
		{method: "identity_v2.API/ListOIDCClients", request: `{}`, needs: "CLUSTER_IDENTITY_LIST_OIDC_CLIENTS cluster"},
		{method: "identity_v2.API/DeleteOIDCClient", request: `{}`, needs: "CLUSTER_IDENTITY_DELETE_OIDC_CLIENT cluster"},
		{method: "identity_v2.API/DeleteAll", request: `{}`, needs: "CLUSTER_DELETE_ALL cluster", last: true},
	}
}

// fileRows are of pfs.
func fileRows() []matrixRow {
	return []matrixRow{
		{method: "pfs_v2.API/CreateProject", request: `{"project":{"name":"mp"}}`, needs: "PROJECT_CREATE cluster"},
		{method: "pfs_v2.API/CreateProject", request: `{"project":{"name":"mp"},"update":true}`, needs: "PROJECT_CREATE cluster & PROJECT_SET_DEFAULTS mp"},
		{method: "pfs_v2.API/InspectProject", request: `{"project":{"name":"mp"}}`},
		{method: "pfs_v2.API/InspectProjectV2", request: `{"project":{"name":"mp"}}`},
		{method: "pfs_v2.API/ListProject", request: `{}`},
		{method: "pfs_v2.API/DeleteProject", request: `{"project":{"name":"mp"}}`, needs: "PROJECT_DELETE mp & PROJECT_MODIFY_BINDINGS mp"},
		{method: "pfs_v2.API/ReposSummary", request: `{"projects":[{"name":"mp"}]}`, needs: "PROJECT_LIST_REPO mp | REPO_READ mp/r", shows: `"sizeBytes":"7"`},

		{method: "pfs_v2.API/CreateRepo", request: `{"repo":<r>}`, needs: "PROJECT_CREATE_REPO mp"},
		{method: "pfs_v2.API/CreateRepo", request: `{"repo":<r>,"update":true}`, needs: "REPO_WRITE mp/r"},
		{method: "pfs_v2.API/CreateRepo", request: `{"repo":<meta>}`, needs: "PROJECT_CREATE_REPO mp & REPO_WRITE mp/r"},
		{method: "pfs_v2.API/InspectRepo", request: `{"repo":<r>}`, needs: "PROJECT_LIST_REPO mp | REPO_READ mp/r"},
		{method: "pfs_v2.API/InspectRepo", request: `{"repo":<spec>}`},
		{method: "pfs_v2.API/ListRepo", request: `{"projects":[{"name":"mp"}],"type":"user"}`, needs: "PROJECT_LIST_REPO mp | REPO_READ mp/r", shows: `"name":"r"`},
		{method: "pfs_v2.API/ListRepo", request: `{}`, needs: "PROJECT_LIST_REPO mp | REPO_READ mp/p", shows: `"name":"p","type":"spec"`},
		{method: "pfs_v2.API/DeleteRepo", request: `{"repo":<r>}`, needs: "REPO_DELETE mp/r", through: fails},
		{method: "pfs_v2.API/DeleteRepos", request: `{"projects":[{"name":"mp"}]}`, needs: "REPO_DELETE mp/r | REPO_DELETE mp/p", through: fails},

		{method: "pfs_v2.API/StartCommit", request: `{"branch":<nob>,"parent":<noc>}`, needs: "REPO_WRITE mp/r"},
		{method: "pfs_v2.API/FinishCommit", request: `{"commit":<noc>}`, needs: "REPO_WRITE mp/r"},
		{method: "pfs_v2.API/ClearCommit", request: `{"commit":<noc>}`, needs: "REPO_WRITE mp/r"},
		{method: "pfs_v2.API/InspectCommit", request: `{"commit":<c>}`, needs: "REPO_INSPECT_COMMIT mp/r"},
		{method: "pfs_v2.API/InspectCommit", request: `{"commit":<noc>,"wait":"FINISHED"}`, needs: "REPO_INSPECT_COMMIT mp/r"},
		{method: "pfs_v2.API/ListCommit", request: `{"repo":<r>}`, needs: "REPO_LIST_COMMIT mp/r"},
		{method: "pfs_v2.API/ListCommit", request: `{}`, needs: "REPO_LIST_COMMIT mp/r", shows: "<head>"},
		{method: "pfs_v2.API/SubscribeCommit", request: `{"repo":<r>,"state":"STARTED"}`, needs: "REPO_LIST_COMMIT mp/r", endless: true},
		{method: "pfs_v2.API/InspectCommitSet", request: `{"commitSet":{"id":"<head>"}}`, needs: "REPO_INSPECT_COMMIT mp/r", shows: `"name":"r"`},
		{method: "pfs_v2.API/ListCommitSet", request: `{}`, needs: "REPO_INSPECT_COMMIT mp/r", shows: "<head>"},
		{method: "pfs_v2.API/SquashCommit", request: `{"commit":<noc>}`, needs: "REPO_DELETE_COMMIT mp/r"},
		{method: "pfs_v2.API/DropCommit", request: `{"commit":<noc>}`, needs: "REPO_DELETE_COMMIT mp/r"},
		{method: "pfs_v2.API/SquashCommitSet", request: `{"commitSet":{"id":"<head>"}}`, needs: "REPO_DELETE_COMMIT mp/r", through: says("has subvenant com")},
		{method: "pfs_v2.API/DropCommitSet", request: `{"commitSet":{"id":"<first>"}}`, needs: "REPO_DELETE_COMMIT mp/r", through: says("cannot drop")},
		{method: "pfs_v2.API/ForgetCommit", request: `{}`},
		{method: "pfs_v2.API/FindCommits", request: `{"start":<c>,"filePath":"/f"}`, needs: "REPO_LIST_COMMIT mp/r & REPO_LIST_FILE mp/r"},
		{method: "pfs_v2.API/WalkCommitProvenance", request: `{"start":[<pickc>]}`, needs: "REPO_INSPECT_COMMIT mp/r"},
		{method: "pfs_v2.API/WalkCommitSubvenance", request: `{"start":[<pickc>]}`, needs: "REPO_INSPECT_COMMIT mp/r"},

		{method: "pfs_v2.API/CreateBranch", request: `{"branch":<b>,"head":<noc>}`, needs: "REPO_CREATE_BRANCH mp/r"},
		{method: "pfs_v2.API/CreateBranch", request: `{"branch":<newdown>,"head":<nocdown>,"provenance":[<b>]}`, needs: "REPO_CREATE_BRANCH mp/down & REPO_READ mp/r"},
		{method: "pfs_v2.API/InspectBranch", request: `{"branch":<b>}`, needs: "REPO_LIST_BRANCH mp/r"},
		{method: "pfs_v2.API/ListBranch", request: `{"repo":<r>}`, needs: "REPO_LIST_BRANCH mp/r"},
		{method: "pfs_v2.API/DeleteBranch", request: `{"branch":<nob>}`, needs: "REPO_DELETE_BRANCH mp/r"},
		{method: "pfs_v2.API/WalkBranchProvenance", request: `{"start":[<pickb>]}`, needs: "REPO_LIST_BRANCH mp/r"},
		{method: "pfs_v2.API/WalkBranchSubvenance", request: `{"start":[<pickb>]}`, needs: "REPO_LIST_BRANCH mp/r"},

		{method: "pfs_v2.API/ModifyFile", request: `{"setCommit":<noc>}{"deleteFile":{"path":"/x"}}`, needs: "REPO_WRITE mp/r"},
		{method: "pfs_v2.API/ModifyFile", request: `{"setCommit":<nocdown>}{"copyFile":{"dst":"/x","src":{"commit":<c>,"path":"/f"}}}`, needs: "REPO_WRITE mp/down & REPO_READ mp/r"},
		{method: "pfs_v2.API/GetFile", request: `{"file":{"commit":<c>,"path":"/f"}}`, needs: "REPO_READ mp/r"},
		{method: "pfs_v2.API/GetFileTAR", request: `{"file":{"commit":<c>,"path":"/f"}}`, needs: "REPO_READ mp/r"},
		{method: "pfs_v2.API/InspectFile", request: `{"file":{"commit":<c>,"path":"/f"}}`, needs: "REPO_INSPECT_FILE mp/r"},
		{method: "pfs_v2.API/ListFile", request: `{"file":{"commit":<c>,"path":"/"}}`, needs: "REPO_LIST_FILE mp/r"},
		{method: "pfs_v2.API/WalkFile", request: `{"file":{"commit":<c>,"path":"/"}}`, needs: "REPO_READ mp/r"},
		{method: "pfs_v2.API/GlobFile", request: `{"commit":<c>,"pattern":"/*"}`, needs: "REPO_READ mp/r"},
		{method: "pfs_v2.API/DiffFile", request: `{"newFile":{"commit":<c>,"path":"/"}}`, needs: "REPO_READ mp/r"},
		{method: "pfs_v2.API/Egress", request: `{"commit":<c>,"objectStorage":{"url":"nothing"}}`, needs: "REPO_READ mp/r"},

		{method: "pfs_v2.API/CreateFileSet", request: `{"copyFile":{"dst":"/x","src":{"commit":<c>,"path":"/f"}}}`, needs: "REPO_READ mp/r"},
		{method: "pfs_v2.API/GetFileSet", request: `{"commit":<c>}`, needs: "REPO_READ mp/r"},
		{method: "pfs_v2.API/AddFileSet", request: `{"commit":<noc>,"fileSetId":"x"}`, needs: "REPO_WRITE mp/r"},
		{method: "pfs_v2.API/RenewFileSet", request: `{"fileSetId":"x"}`},
		{method: "pfs_v2.API/ComposeFileSet", request: `{"fileSetIds":["x"]}`},
		{method: "pfs_v2.API/ShardFileSet", request: `{"fileSetId":"x"}`},

		{method: "pfs_v2.API/Fsck", request: `{}`, needs: "REPO_READ cluster"},
		{method: "pfs_v2.API/CheckStorage", request: `{}`, needs: "REPO_READ cluster"},
		{method: "pfs_v2.API/PutCache", request: `{}`},
		{method: "pfs_v2.API/GetCache", request: `{}`},
		{method: "pfs_v2.API/ClearCache", request: `{}`},
		{method: "pfs_v2.API/ListTask", request: `{}`},
		{method: "pfs_v2.API/ActivateAuth", request: `{}`, needs: "CLUSTER_AUTH_ACTIVATE cluster"},
		{method: "pfs_v2.API/DeleteAll", request: `{}`, needs: "CLUSTER_DELETE_ALL cluster", last: true},
	}
}

// pipelineRows are of pps.
func pipelineRows() []matrixRow {
	spec := func(name string) string {
		return createRequest(`{"pipeline":{"name":"`+name+`","project":{"name":"mp"}},"spout":{},"transform":{"cmd":["sleep","1000"]}}`, `"dryRun":true`)
	}
	return []matrixRow{
		{method: "pps_v2.API/CreatePipeline", request: `{"pipeline":{"name":"new","project":{"name":"mp"}},"spout":{},"transform":{"cmd":["x"]},"dryRun":true}`, needs: "PROJECT_CREATE_REPO mp"},
		{method: "pps_v2.API/CreatePipelineV2", request: spec("new"), needs: "PROJECT_CREATE_REPO mp"},
		{method: "pps_v2.API/CreatePipelineV2", request: strings.TrimSuffix(spec("p"), "}") + `,"update":true}`, needs: "REPO_WRITE mp/p"},
		{method: "pps_v2.API/InspectPipeline", request: `{"pipeline":<p>}`},
		{method: "pps_v2.API/InspectPipeline", request: `{"pipeline":<p>,"details":true}`, needs: "REPO_READ mp/p", shows: "sleep"},
		{method: "pps_v2.API/ListPipeline", request: `{}`, needs: "PROJECT_LIST_REPO mp | REPO_READ mp/p", shows: `"name":"p"`},
		{method: "pps_v2.API/ListPipeline", request: `{"projects":[{"name":"mp"}],"history":"-1"}`, needs: "REPO_READ mp/p", shows: "sleep"},
		{method: "pps_v2.API/PipelinesSummary", request: `{}`, needs: "PROJECT_LIST_REPO mp | REPO_READ mp/p", shows: `"name":"mp"`},
		{method: "pps_v2.API/StartPipeline", request: `{"pipeline":<p>}`, needs: "REPO_WRITE mp/p"},
		{method: "pps_v2.API/RerunPipeline", request: `{"pipeline":<p>}`, needs: "REPO_WRITE mp/p"},
		{method: "pps_v2.API/StopPipeline", request: `{"pipeline":<p>}`, needs: "REPO_WRITE mp/p"},
		{method: "pps_v2.API/DeletePipeline", request: `{"pipeline":<p>}`, needs: "REPO_DELETE mp/p"},
		{method: "pps_v2.API/DeletePipelines", request: `{"projects":[{"name":"mp"}]}`, needs: "REPO_DELETE mp/p", through: fails},
		{method: "pps_v2.API/RunPipeline", request: `{"pipeline":<p>}`},
		{method: "pps_v2.API/RunCron", request: `{"pipeline":<p>}`, needs: "REPO_WRITE mp/p"},
		{method: "pps_v2.API/CheckStatus", request: `{"all":true}`},
		{method: "pps_v2.API/GetLogs", request: `{"pipeline":<p>}`, needs: "REPO_READ mp/p"},
		{method: "pps_v2.API/GetLogs", request: `{"job":<job>}`, needs: "REPO_READ mp/r"},
		{method: "pps_v2.API/GetLogs", request: `{}`, needs: "CLUSTER_GET_PACHD_LOGS cluster"},

		{method: "pps_v2.API/InspectJob", request: `{"job":<job>}`, needs: "PIPELINE_LIST_JOB mp/r"},
		{method: "pps_v2.API/ListJob", request: `{"pipeline":{"name":"r","project":{"name":"mp"}}}`, needs: "PIPELINE_LIST_JOB mp/r"},
		{method: "pps_v2.API/SubscribeJob", request: `{"pipeline":{"name":"r","project":{"name":"mp"}}}`, needs: "PIPELINE_LIST_JOB mp/r"},
		{method: "pps_v2.API/InspectJobSet", request: `{"jobSet":{"id":"<missing>"}}`},
		{method: "pps_v2.API/ListJobSet", request: `{}`},
		{method: "pps_v2.API/StopJob", request: `{"job":<job>}`, needs: "REPO_WRITE mp/r"},
		{method: "pps_v2.API/DeleteJob", request: `{"job":<job>}`, needs: "REPO_WRITE mp/r"},
		{method: "pps_v2.API/UpdateJobState", request: `{"job":<job>}`, needs: "REPO_WRITE mp/r"},
		{method: "pps_v2.API/InspectDatum", request: `{"datum":{"job":<job>,"id":"x"}}`, needs: "PIPELINE_LIST_JOB mp/r"},
		{method: "pps_v2.API/ListDatum", request: `{"job":<job>}`, needs: "PIPELINE_LIST_JOB mp/r"},
		{method: "pps_v2.API/RestartDatum", request: `{"job":<job>}`, needs: "REPO_WRITE mp/r"},
		{method: "pps_v2.API/CreateDatum", request: `{}`},

		{method: "pps_v2.API/CreateSecret", request: `{}`, needs: "CLUSTER_CREATE_SECRET cluster"},
		{method: "pps_v2.API/ListSecret", request: `{}`, needs: "CLUSTER_LIST_SECRETS cluster"},
		{method: "pps_v2.API/InspectSecret", request: `{"secret":{"name":"x"}}`, needs: "SECRET_INSPECT cluster"},
		{method: "pps_v2.API/DeleteSecret", request: `{"secret":{"name":"x"}}`, needs: "SECRET_DELETE cluster"},

		{method: "pps_v2.API/GetClusterDefaults", request: `{}`},
		{method: "pps_v2.API/SetClusterDefaults", request: `{"clusterDefaultsJson":"{}","dryRun":true}`, needs: "CLUSTER_SET_DEFAULTS cluster"},
		{method: "pps_v2.API/GetProjectDefaults", request: `{"project":{"name":"mp"}}`},
		{method: "pps_v2.API/SetProjectDefaults", request: `{"project":{"name":"mp"},"projectDefaultsJson":"{}","dryRun":true}`, needs: "PROJECT_SET_DEFAULTS mp"},

		{method: "pps_v2.API/RunLoadTest", request: `{}`},
		{method: "pps_v2.API/RunLoadTestDefault", request: `{}`},
		{method: "pps_v2.API/RenderTemplate", request: `{}`},
		{method: "pps_v2.API/ListTask", request: `{}`},
		{method: "pps_v2.API/GetKubeEvents", request: `{}`},
		{method: "pps_v2.API/QueryLoki", request: `{}`, needs: "CLUSTER_GET_LOKI_LOGS cluster"},
		{method: "pps_v2.API/ActivateAuth", request: `{}`, needs: "CLUSTER_AUTH_ACTIVATE cluster"},
		{method: "pps_v2.API/DeleteAll", request: `{}`, needs: "CLUSTER_DELETE_ALL cluster", last: true},
	}
}

// sharedRows are of what reaches across pfs and pps, and of the end of auth.
func sharedRows() []matrixRow {
	batch := func(call, request string) string { return `{"requests":[{"` + call + `":` + request + `}]}` }
	return []matrixRow{
		{method: "transaction_v2.API/BatchTransaction", request: batch("createRepo", `{"repo":<r>}`), needs: "PROJECT_CREATE_REPO mp"},
		{method: "transaction_v2.API/BatchTransaction", request: batch("createRepo", `{"repo":<r>,"update":true}`), needs: "REPO_WRITE mp/r"},
		{method: "transaction_v2.API/BatchTransaction", request: batch("deleteRepo", `{"repo":<r>}`), needs: "REPO_DELETE mp/r", through: fails},
		{method: "transaction_v2.API/BatchTransaction", request: batch("startCommit", `{"branch":<nob>,"parent":<noc>}`), needs: "REPO_WRITE mp/r"},
		{method: "transaction_v2.API/BatchTransaction", request: batch("finishCommit", `{"commit":<noc>}`), needs: "REPO_WRITE mp/r"},
		{method: "transaction_v2.API/BatchTransaction", request: batch("createBranch", `{"branch":<b>,"head":<noc>}`), needs: "REPO_CREATE_BRANCH mp/r"},
		{method: "transaction_v2.API/BatchTransaction", request: batch("deleteBranch", `{"branch":<nob>}`), needs: "REPO_DELETE_BRANCH mp/r"},
		{method: "transaction_v2.API/BatchTransaction", request: batch("stopJob", `{"job":<job>}`), needs: "REPO_WRITE mp/r"},
		{method: "transaction_v2.API/BatchTransaction", request: batch("updateJobState", `{"job":<job>}`), needs: "REPO_WRITE mp/r"},
		{method: "transaction_v2.API/BatchTransaction", request: batch("createPipelineV2", `{"createPipelineRequest":{"dryRun":true},"userJson":"{\"pipeline\":{\"name\":\"new\",\"project\":{\"name\":\"mp\"}},\"spout\":{}}"}`), needs: "PROJECT_CREATE_REPO mp"},
		{method: "transaction_v2.API/BatchTransaction", request: batch("createPipelineV2", `{"createPipelineRequest":{"dryRun":true,"update":true},"userJson":"{\"pipeline\":{\"name\":\"p\",\"project\":{\"name\":\"mp\"}},\"spout\":{}}"}`), needs: "REPO_WRITE mp/p"},
		{method: "transaction_v2.API/StartTransaction", request: `{}`},
		{method: "transaction_v2.API/ListTransaction", request: `{}`, needs: "CLUSTER_DELETE_ALL cluster", shows: "<txn1>"},
		{method: "transaction_v2.API/InspectTransaction", request: `{"transaction":{"id":"<txn1>"}}`, needs: "CLUSTER_DELETE_ALL cluster"},
		{method: "transaction_v2.API/FinishTransaction", request: `{"transaction":{"id":"<txn2>"}}`, needs: "CLUSTER_DELETE_ALL cluster", last: true},
		{method: "transaction_v2.API/DeleteTransaction", request: `{"transaction":{"id":"<txn3>"}}`, needs: "CLUSTER_DELETE_ALL cluster", last: true},
		{method: "transaction_v2.API/DeleteAll", request: `{}`, needs: "CLUSTER_DELETE_ALL cluster", last: true},

		{method: "metadata.API/EditMetadata", request: `{"edits":[{"project":{"name":"mp"},"editKey":{"key":"k"}}]}`, needs: "PROJECT_SET_DEFAULTS mp"},
		{method: "metadata.API/EditMetadata", request: `{"edits":[{"repo":<pickr>,"editKey":{"key":"k"}}]}`, needs: "REPO_WRITE mp/r"},
		{method: "metadata.API/EditMetadata", request: `{"edits":[{"branch":<pickb>,"editKey":{"key":"k"}}]}`, needs: "REPO_CREATE_BRANCH mp/r"},
		{method: "metadata.API/EditMetadata", request: `{"edits":[{"commit":<pickc>,"editKey":{"key":"k"}}]}`, needs: "REPO_WRITE mp/r"},
		{method: "metadata.API/EditMetadata", request: `{"edits":[{"pipeline":<pickp>,"editKey":{"key":"k"}}]}`, needs: "REPO_WRITE mp/p"},
		{method: "metadata.API/EditMetadata", request: `{"edits":[{"cluster":{},"editKey":{"key":"k"}}]}`, needs: "CLUSTER_EDIT_CLUSTER_METADATA cluster"},
		{method: "metadata.API/EditMetadata", request: `{"edits":[{"repo":<pickr>,"editKey":{"key":"k"}},{"pipeline":<pickp>,"editKey":{"key":"k"}}]}`, needs: "REPO_WRITE mp/r & REPO_WRITE mp/p"},

		{method: "auth_v2.API/Deactivate", request: `{}`, needs: "CLUSTER_AUTH_DEACTIVATE cluster", last: true},
	}
}
