package pachctl

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/minipachd/minipachd/client"
)

const (
	someID  = "0123456789ab4def0123456789abcdef"
	repoR   = `{"name":"r","type":"user","project":{"name":"default"}}`
	repoQ   = `{"name":"r","type":"user","project":{"name":"q"}}`
	branchB = `{"repo":` + repoR + `,"name":"b"}`
	commitB = `{"repo":` + repoR + `,"branch":` + branchB + `}`
	pickR   = `{"name":{"project":{"name":"default"},"name":"r","type":"user"}}`
	pickB   = `{"name":{"repo":` + pickR + `,"name":"b"}}`
	project = `"projects":[{"name":"default"}]`
)

// TestRequests holds what each command sends: existing servers and clients agree
// on it.
func TestRequests(t *testing.T) {
	sh := newShell(t)
	cfg, err := client.LoadConfig("")
	if err != nil {
		t.Fatal(err)
	}
	cfg.ActiveContext, cfg.Contexts["c"] = "c", &client.Context{}
	if err := cfg.Save(); err != nil {
		t.Fatal(err)
	}
	edit := func(edits ...string) string {
		return `metadata.API/EditMetadata {"edits":[{` + strings.Join(edits, "},{") + `}]}`
	}
	noBranch := `"branch":{"repo":` + repoR + `}`
	for _, tc := range []struct {
		args string
		want []string
	}{
		{"create repo r -d x", []string{`pfs_v2.API/CreateRepo {"repo":` + repoR + `,"description":"x"}`}},
		{"create repo r --project q", []string{`pfs_v2.API/CreateRepo {"repo":` + repoQ + `}`}},
		{"update repo r -d y", []string{`pfs_v2.API/CreateRepo {"repo":` + repoR + `,"description":"y","update":true}`}},
		{"inspect repo r", []string{`pfs_v2.API/InspectRepo {"repo":` + repoR + `}`}},
		{"list repo", []string{`pfs_v2.API/ListRepo {"type":"user",` + project + `}`}},
		{"list repos --all", []string{`pfs_v2.API/ListRepo {` + project + `}`}},
		{"list repo -A", []string{`pfs_v2.API/ListRepo {"type":"user"}`}},
		{"create branch r@b", []string{`pfs_v2.API/CreateBranch {"branch":` + branchB + `}`}},
		{"create branch r@b --head master", []string{`pfs_v2.API/CreateBranch {"head":{"repo":` + repoR + `,"id":"master",` + noBranch + `},"branch":` + branchB + `}`}},
		{"create branch r@b -p r@m --trigger m --trigger-size 1MB", []string{`pfs_v2.API/CreateBranch {"branch":` + branchB + `,"provenance":[{"repo":` + repoR + `,"name":"m"}],"trigger":{"branch":"m","size":"1MB"}}`}},
		{"list branch r", []string{`pfs_v2.API/ListBranch {"repo":` + repoR + `}`}},
		{"inspect branch r@b", []string{`pfs_v2.API/InspectBranch {"branch":` + branchB + `}`}},
		{"delete branch r@b -f", []string{`pfs_v2.API/DeleteBranch {"branch":` + branchB + `,"force":true}`}},
		{"start commit r@b -m hi", []string{`pfs_v2.API/StartCommit {"description":"hi","branch":` + branchB + `}`}},
		{"start commit r@b -p " + someID, []string{`pfs_v2.API/StartCommit {"parent":{"repo":` + repoR + `,"id":"` + someID + `",` + noBranch + `},"branch":` + branchB + `}`}},
		{"finish commit r@b", []string{`pfs_v2.API/FinishCommit {"commit":` + commitB + `}`}},
		{"inspect commit r@b", []string{`pfs_v2.API/InspectCommit {"commit":` + commitB + `,"wait":"STARTED"}`}},
		{"inspect commit r@b^2", []string{`pfs_v2.API/InspectCommit {"commit":{"repo":` + repoR + `,"id":"b^2",` + noBranch + `},"wait":"STARTED"}`}},
		{"inspect commit r@b=" + someID, []string{`pfs_v2.API/InspectCommit {"commit":{"repo":` + repoR + `,"id":"` + someID + `","branch":` + branchB + `},"wait":"STARTED"}`}},
		{"wait commit r@b", []string{`pfs_v2.API/InspectCommit {"commit":` + commitB + `,"wait":"FINISHED"}`}},
		{"wait commit " + someID, []string{`pfs_v2.API/InspectCommitSet {"commit_set":{"id":"` + someID + `"},"wait":true}`}},
		{"list commit", []string{`pfs_v2.API/ListCommitSet {"project":{"name":"default"}}`}},
		{"list commit r", []string{`pfs_v2.API/ListCommit {"repo":` + repoR + `}`}},
		{"list commit r@b -n 5 --all --origin user", []string{`pfs_v2.API/ListCommit {"repo":` + repoR + `,"to":` + commitB + `,"number":"5","all":true,"origin_kind":"USER"}`}},
		{"list commit r@b -f m", []string{`pfs_v2.API/ListCommit {"repo":` + repoR + `,"from":{"repo":` + repoR + `,"branch":{"repo":` + repoR + `,"name":"m"}},"to":` + commitB + `}`}},
		{"list commit " + someID, []string{`pfs_v2.API/InspectCommitSet {"commit_set":{"id":"` + someID + `"}}`}},
		{"squash commit " + someID, []string{`pfs_v2.API/SquashCommitSet {"commit_set":{"id":"` + someID + `"}}`}},
		{"delete commit " + someID, []string{`pfs_v2.API/DropCommitSet {"commit_set":{"id":"` + someID + `"}}`}},
		{"drop commit r@b", []string{`pfs_v2.API/DropCommit {"commit":` + commitB + `}`}},
		{"find commit r@b:/f -n 3", []string{`pfs_v2.API/FindCommits {"start":` + commitB + `,"file_path":"/f","limit":3}`}},
		{"list file r@b", []string{`pfs_v2.API/ListFile {"file":{"commit":` + commitB + `}}`}},
		{"list file r@b:/a* -n 2", []string{`pfs_v2.API/ListFile {"file":{"commit":` + commitB + `,"path":"/a*"},"number":"2"}`}},
		{"glob file r@b:/*", []string{`pfs_v2.API/GlobFile {"commit":` + commitB + `,"pattern":"/*"}`}},
		{"get file r@b:/f --offset 3", []string{`pfs_v2.API/GetFile {"file":{"commit":` + commitB + `,"path":"/f"},"offset":"3"}`}},
		{"delete file r@b:/d -r", []string{`pfs_v2.API/ModifyFile {"set_commit":` + commitB + `}`, `pfs_v2.API/ModifyFile {"delete_file":{"path":"/d/"}}`}},
		{"copy file r@" + someID + ":/x r@b:/y -a", []string{
			`pfs_v2.API/ModifyFile {"set_commit":` + commitB + `}`,
			`pfs_v2.API/ModifyFile {"copy_file":{"dst":"/y","src":{"commit":{"repo":` + repoR + `,"id":"` + someID + `",` + noBranch + `},"path":"/x"},"append":true}}`,
		}},
		{"diff file r@b:/f r@m:/f", []string{`pfs_v2.API/DiffFile {"new_file":{"commit":` + commitB + `,"path":"/f"},"old_file":{"commit":{"repo":` + repoR + `,"branch":{"repo":` + repoR + `,"name":"m"}},"path":"/f"}}`}},
		{"put file r@b:/x -f https://h/y", []string{
			`pfs_v2.API/InspectRepo {"repo":` + repoR + `}`, `pfs_v2.API/ModifyFile {"set_commit":` + commitB + `}`,
			`pfs_v2.API/ModifyFile {"delete_file":{"path":"/x"}}`, `pfs_v2.API/ModifyFile {"add_file":{"path":"/x","url":{"URL":"https://h/y","concurrency":10}}}`,
		}},
		{"fsck --fix", []string{`pfs_v2.API/Fsck {"fix":true}`}},
		{"create project p -d x", []string{`pfs_v2.API/CreateProject {"project":{"name":"p"},"description":"x"}`}},
		{"inspect project p", []string{`pfs_v2.API/InspectProjectV2 {"project":{"name":"p"}}`}},
		{"list pipeline", []string{`pps_v2.API/ListPipeline {"details":true,"commit_set":{},` + project + `}`}},
		{"list pipelines -A --state running,paused", []string{`pps_v2.API/ListPipeline {"details":true,"jqFilter":".state == \"PIPELINE_RUNNING\" or .state == \"PIPELINE_PAUSED\"","commit_set":{}}`}},
		{"inspect pipeline s^", []string{`pps_v2.API/InspectPipeline {"pipeline":{"project":{"name":"default"},"name":"s^"},"details":true}`}},
		{"start pipeline s", []string{`pps_v2.API/StartPipeline {"pipeline":{"project":{"name":"default"},"name":"s"}}`}},
		{"stop pipeline s", []string{`pps_v2.API/StopPipeline {"pipeline":{"project":{"name":"default"},"name":"s"},"must_exist":true}`}},
		{"delete pipeline s --keep-repo", []string{`pps_v2.API/DeletePipeline {"pipeline":{"project":{"name":"default"},"name":"s"},"keep_repo":true,"must_exist":true}`}},
		{"delete pipeline --all -f", []string{`pps_v2.API/DeletePipelines {` + project + `,"force":true}`}},
		{"rerun pipeline s", []string{`pps_v2.API/RerunPipeline {"pipeline":{"project":{"name":"default"},"name":"s"}}`}},
		{"inspect defaults --cluster", []string{`pps_v2.API/GetClusterDefaults {}`}},
		{"inspect defaults --project q", []string{`pps_v2.API/GetProjectDefaults {"project":{"name":"q"}}`}},
		{"delete defaults --cluster", []string{`pps_v2.API/SetClusterDefaults {"cluster_defaults_json":"{}"}`}},
		{"delete defaults --regenerate --dry-run", []string{`pps_v2.API/SetProjectDefaults {"project":{"name":"default"},"regenerate":true,"dry_run":true,"project_defaults_json":"{}"}`}},
		{"logs", []string{`pps_v2.API/GetLogs {}`}},
		{"logs -p s --since 30m --master", []string{`pps_v2.API/GetLogs {"pipeline":{"project":{"name":"default"},"name":"s"},"master":true,"since":"1800s"}`}},
		{"list job", []string{`pps_v2.API/ListJobSet {"details":true,` + project + `}`}},
		{"list job -p s", []string{`pps_v2.API/ListJob {` + project + `,"pipeline":{"project":{"name":"default"},"name":"s"},"details":true}`}},
		{"list job " + someID, []string{`pps_v2.API/InspectJobSet {"job_set":{"id":"` + someID + `"},"details":true}`}},
		{"auth whoami", []string{`auth_v2.API/WhoAmI {}`}},
		{"auth login", []string{`auth_v2.API/GetOIDCLogin {}`}},
		{"auth get-config", []string{`auth_v2.API/GetConfiguration {}`}},
		{"create secret", []string{`pps_v2.API/CreateSecret {}`}},
		{"list secret", []string{`pps_v2.API/ListSecret {}`}},
		{"inspect secret x", []string{`pps_v2.API/InspectSecret {"secret":{"name":"x"}}`}},
		{"delete secret x", []string{`pps_v2.API/DeleteSecret {"secret":{"name":"x"}}`}},
		{"version", []string{`versionpb_v2.API/GetVersion {}`}},
		{"start transaction", []string{`transaction_v2.API/StartTransaction {}`}},
		{"finish transaction " + someID, []string{`transaction_v2.API/FinishTransaction {"transaction":{"id":"` + someID + `"}}`}},
		{"delete transaction " + someID, []string{`transaction_v2.API/DeleteTransaction {"transaction":{"id":"` + someID + `"}}`}},
		{"inspect transaction " + someID, []string{`transaction_v2.API/InspectTransaction {"transaction":{"id":"` + someID + `"}}`}},
		{"resume transaction " + someID, []string{`transaction_v2.API/InspectTransaction {"transaction":{"id":"` + someID + `"}}`}},
		{"list transaction", []string{`transaction_v2.API/ListTransaction {}`}},
		{"edit metadata project p add a=b=c", []string{edit(`"project":{"name":"p"},"add_key":{"key":"a","value":"b=c"}`)}},
		{"edit metadata repo r.spec edit a=", []string{edit(`"repo":{"name":{"project":{"name":"default"},"name":"r","type":"spec"}},"edit_key":{"key":"a"}`)}},
		{"edit metadata branch q/r@b delete a=b", []string{edit(`"branch":{"name":{"repo":{"name":{"project":{"name":"q"},"name":"r","type":"user"}},"name":"b"}},"delete_key":{"key":"a=b"}`)}},
		{"edit metadata commit r@b set {\"x\":\"y\"}", []string{edit(`"commit":{"branch_head":` + pickB + `},"replace":{"replacement":{"x":"y"}}`)}},
		{"edit metadata commit r@" + someID + "^2~ add a=b", []string{edit(`"commit":{"ancestor":{"offset":3,"start":{"id":{"repo":` + pickR + `,"id":"` + someID + `"}}}},"add_key":{"key":"a","value":"b"}`)}},
		{"edit metadata commit r@b.3 add a=b", []string{edit(`"commit":{"branch_root":{"offset":3,"branch":` + pickB + `}},"add_key":{"key":"a","value":"b"}`)}},
		{"edit metadata pipeline s add a=b --project q", []string{edit(`"pipeline":{"name":{"project":{"name":"q"},"name":"s"}},"add_key":{"key":"a","value":"b"}`)}},
		{"edit metadata cluster add a=b cluster . delete add", []string{edit(`"cluster":{},"add_key":{"key":"a","value":"b"}`, `"cluster":{},"delete_key":{"key":"add"}`)}},
		{"delete repo r", []string{`pfs_v2.API/DeleteRepo {"repo":` + repoR + `}`}},
	} {
		sh.try("", strings.Fields(tc.args)...) // the stand-in does not know them all
		if diff := cmp.Diff(strings.Join(tc.want, "\n")+"\n", sh.requests()); diff != "" {
			t.Errorf("pachctl %s (-want +got):\n%s", tc.args, diff)
		}
	}
}

func TestFirstCall_InspectCluster(t *testing.T) {
	sh := newShell(t)
	sh.s.Warnings = []string{"WARNING: Could not inspect project \"q\""}
	code, out, stderr := sh.try("", "list", "repo", "--project", "q")
	if code != 0 || !strings.HasPrefix(out, "PROJECT") || stderr != "WARNING: Could not inspect project \"q\"\n" {
		t.Errorf("exit code %d, stderr %q, stdout %q", code, stderr, out)
	}
	t.Setenv("PACHYDERM_IGNORE_VERSION_SKEW", "1")
	sh.ok("", "list", "repo")
	call := sh.s.Last(sh.ctx, t, "admin_v2.API/InspectCluster")
	if got := call.Requests[0]; !strings.Contains(strings.ReplaceAll(gotText(got), "  ", " "), `minor:12`) {
		t.Errorf("sent %v", got)
	}
}
