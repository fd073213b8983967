package server_test

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/minipachd/minipachd/server"
)

// The matrix holds every method against every role: who has a role, bound to the
// cluster, a project or a repo and nothing else, calls each method of the daemon, and
// is let through or refused as the tables here say. They are written down from the
// description of the API, not taken from the code.

// rolePermissions are what each role grants. A name with a * stands for a role that
// is included.
var rolePermissions = map[string]string{
	"repoReader":     "REPO_READ REPO_INSPECT_COMMIT REPO_LIST_COMMIT REPO_LIST_BRANCH REPO_LIST_FILE REPO_INSPECT_FILE REPO_ADD_PIPELINE_READER REPO_REMOVE_PIPELINE_READER PIPELINE_LIST_JOB",
	"repoWriter":     "*repoReader REPO_WRITE REPO_DELETE_COMMIT REPO_CREATE_BRANCH REPO_DELETE_BRANCH REPO_ADD_PIPELINE_WRITER",
	"repoOwner":      "*repoWriter REPO_MODIFY_BINDINGS REPO_DELETE",
	"projectViewer":  "PROJECT_LIST_REPO",
	"projectWriter":  "*projectViewer PROJECT_CREATE_REPO",
	"projectOwner":   "*repoOwner *projectWriter PROJECT_DELETE PROJECT_MODIFY_BINDINGS PROJECT_SET_DEFAULTS",
	"projectCreator": "PROJECT_CREATE",
	"robotUser":      "CLUSTER_AUTH_GET_ROBOT_TOKEN",
	"secretAdmin":    "CLUSTER_CREATE_SECRET CLUSTER_LIST_SECRETS SECRET_INSPECT SECRET_DELETE",
	"debugger":       "CLUSTER_DEBUG_DUMP CLUSTER_GET_PACHD_LOGS CLUSTER_GET_LOKI_LOGS",
	"pachdLogReader": "CLUSTER_GET_PACHD_LOGS",
	"lokiLogReader":  "CLUSTER_GET_LOKI_LOGS",
	"oidcAppAdmin":   "CLUSTER_IDENTITY_DELETE_OIDC_CLIENT CLUSTER_IDENTITY_CREATE_OIDC_CLIENT CLUSTER_IDENTITY_UPDATE_OIDC_CLIENT CLUSTER_IDENTITY_LIST_OIDC_CLIENTS CLUSTER_IDENTITY_GET_OIDC_CLIENT",
	"idpAdmin":       "CLUSTER_IDENTITY_CREATE_IDP CLUSTER_IDENTITY_UPDATE_IDP CLUSTER_IDENTITY_LIST_IDPS CLUSTER_IDENTITY_GET_IDP CLUSTER_IDENTITY_DELETE_IDP",
	"identityAdmin":  "CLUSTER_IDENTITY_SET_CONFIG CLUSTER_IDENTITY_GET_CONFIG",
	"licenseAdmin":   "CLUSTER_LICENSE_ACTIVATE CLUSTER_LICENSE_GET_CODE CLUSTER_LICENSE_ADD_CLUSTER CLUSTER_LICENSE_UPDATE_CLUSTER CLUSTER_LICENSE_DELETE_CLUSTER CLUSTER_LICENSE_LIST_CLUSTERS",
	"jobAdmin":       "JOB_SKIP_CTX",
	"clusterAdmin": "*projectOwner *projectCreator *robotUser *secretAdmin *debugger *oidcAppAdmin *idpAdmin *identityAdmin *licenseAdmin *jobAdmin " +
		"CLUSTER_MODIFY_BINDINGS CLUSTER_GET_BINDINGS CLUSTER_AUTH_ACTIVATE CLUSTER_AUTH_DEACTIVATE CLUSTER_AUTH_GET_CONFIG CLUSTER_AUTH_SET_CONFIG " +
		"CLUSTER_AUTH_MODIFY_GROUP_MEMBERS CLUSTER_AUTH_GET_GROUPS CLUSTER_AUTH_GET_GROUP_USERS CLUSTER_AUTH_EXTRACT_TOKENS CLUSTER_AUTH_RESTORE_TOKEN " +
		"CLUSTER_AUTH_ROTATE_ROOT_TOKEN CLUSTER_AUTH_DELETE_EXPIRED_TOKENS CLUSTER_AUTH_GET_PERMISSIONS_FOR_PRINCIPAL CLUSTER_AUTH_REVOKE_USER_TOKENS " +
		"CLUSTER_ENTERPRISE_ACTIVATE CLUSTER_ENTERPRISE_HEARTBEAT CLUSTER_ENTERPRISE_GET_CODE CLUSTER_ENTERPRISE_DEACTIVATE CLUSTER_ENTERPRISE_PAUSE " +
		"CLUSTER_DELETE_ALL CLUSTER_SET_DEFAULTS CLUSTER_EDIT_CLUSTER_METADATA CLUSTER_SNAPSHOTTER CLUSTER_RESTART_PACHYDERM",
}

// permissionsOf is the set of what a role grants.
func permissionsOf(role string) map[string]bool {
	set := map[string]bool{}
	for _, name := range strings.Fields(rolePermissions[role]) {
		if included, ok := strings.CutPrefix(name, "*"); ok {
			maps.Copy(set, permissionsOf(included))
		} else {
			set[name] = true
		}
	}
	return set
}

// bindable says which roles can be bound to a type of resource.
var bindable = map[string][]string{
	"CLUSTER": slices.Sorted(maps.Keys(rolePermissions)),
	"PROJECT": {"repoReader", "repoWriter", "repoOwner", "projectViewer", "projectWriter", "projectOwner"},
	"REPO":    {"repoReader", "repoWriter", "repoOwner"},
}

// caller is somebody with one role at one place.
type caller struct {
	role  string // none if empty
	on    string // cluster, mp, mp/<repo>
	name  string
	token string
}

// has tells whether the caller has a permission on something: by a role there, or
// on what it lies in. Everybody may read specs.
func (c caller) has(perm, on string) bool {
	if spec, ok := strings.CutPrefix(on, "spec "); ok {
		if on = spec; permissionsOf("repoReader")[perm] {
			return true
		}
	}
	covers := c.on == "cluster" || c.on == on || strings.HasPrefix(on, c.on+"/")
	return covers && permissionsOf(c.role)[perm]
}

// permission finds the permissions in what a row needs.
var permission = regexp.MustCompile(`[A-Z]+_[A-Z_]+`)

// may tells whether the caller has what a row needs: one of several alternatives, each
// some permissions with what they are on, as "REPO_READ mp/r & REPO_WRITE mp/q | ...".
func (c caller) may(needs string) bool {
	if needs == "" {
		return true
	}
	return slices.ContainsFunc(strings.Split(needs, " | "), func(all string) bool {
		return !slices.ContainsFunc(strings.Split(all, " & "), func(one string) bool {
			perm, on, _ := strings.Cut(one, " ")
			return !c.has(perm, on)
		})
	})
}

// judge reads from an answer whether the caller was let through.
type judge func(a answer) bool

// says lets through who gets a text: others may get more than one answer.
func says(text string) judge {
	return func(a answer) bool { return strings.Contains(a.String(), text) }
}

// refusedBy tells whether an answer denies. Whatever else it says, the caller was let
// through.
func refusedBy(a answer) bool {
	text := a.String()
	return a.err != nil && (status.Code(a.err) == codes.PermissionDenied && strings.Contains(text, "is not authorized to perform this operation") ||
		status.Code(a.err) == codes.Unknown && strings.Contains(text, "no role binding exists for"))
}

// fails is for calls that pass over in silence what the caller may not touch, and
// fail with something else if it may.
func fails(a answer) bool { return a.err != nil && !refusedBy(a) }

// TestWireAuth_Matrix is the matrix. Calls that would spoil it for others, and whose
// callers may make them, come last.
func TestWireAuth_Matrix(t *testing.T) {
	w := newWire(t)
	fill := matrixScene(t, w)

	callers := []caller{{name: "none"}}
	resources := map[string]string{"cluster": `{"type":"CLUSTER"}`, "mp": `{"type":"PROJECT","name":"mp"}`, "mp/r": `{"type":"REPO","name":"mp/r"}`, "mp/p": `{"type":"REPO","name":"mp/p"}`, "other": `{"type":"PROJECT","name":"other"}`, "other/r": `{"type":"REPO","name":"other/r"}`}
	for on, of := range map[string]string{"cluster": "CLUSTER", "mp": "PROJECT", "mp/r": "REPO", "mp/p": "REPO", "other": "PROJECT", "other/r": "REPO"} {
		for _, role := range bindable[of] {
			if strings.HasPrefix(on, "other") && !strings.HasSuffix(role, "Owner") {
				continue // what the owners cannot, others cannot
			}
			callers = append(callers, caller{role: role, on: on, name: role + "-" + strings.ReplaceAll(on, "/", "-")})
		}
	}
	for i, c := range callers {
		callers[i].token = w.robot(c.name, resources[c.on], c.role)
	}

	rows := matrixRows()
	seen := map[string][]string{}
	for _, r := range rows {
		seen[r.method] = append(seen[r.method], permission.FindAllString(r.needs, -1)...)
	}
	for _, service := range reflected(within(t), t, w.conn) {
		for i := range service.Methods().Len() {
			m := service.Methods().Get(i)
			name := string(service.FullName()) + "/" + string(m.Name())
			needs, ok := seen[name]
			if !ok && !strings.HasPrefix(name, "grpc.") {
				t.Errorf("%s has no row: who may call it?", name)
			}
			slices.Sort(needs)
			table := server.AccessNeeds()["/"+name]
			slices.Sort(table)
			if needs = slices.Compact(needs); !slices.Equal(needs, table) {
				t.Errorf("%s needs %v according to its rows, and %v according to the table of accesses", name, needs, table)
			}
		}
	}

	start := time.Now()
	t.Run("callers", func(t *testing.T) {
		for _, c := range callers {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				w := &wire{t: t, proc: w.proc, conn: w.conn}
				for _, r := range rows {
					if !r.last || !c.may(r.needs) {
						c.try(within(t), w, r, fill)
					}
				}
			})
		}
	})
	for _, r := range rows {
		for _, c := range callers {
			if r.last && c.may(r.needs) {
				c.try(within(t), w, r, fill)
			}
		}
	}
	t.Logf("%d callers, %d rows: %v", len(callers), len(rows), time.Since(start))
}

// try makes the call of a row.
func (c caller) try(ctx context.Context, w *wire, r matrixRow, fill *strings.Replacer) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(withTokens(ctx, c.token))
	defer cancel()
	request := fill.Replace(r.request)
	a := w.callUntil(ctx, r.method, r.endless, request)
	through := !refusedBy(a)
	switch {
	case r.through != nil:
		through = r.through(a)
	case r.shows != "":
		through = strings.Contains(a.String(), fill.Replace(r.shows))
	}
	if through != c.may(r.needs) {
		w.t.Errorf("%s %s as %s: %v\nit needs %q", r.method, request, c.name, a, r.needs)
	}
}
