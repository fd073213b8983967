package auth

import (
	"slices"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
)

// Where roles can be bound, and for which resources they are listed.
var (
	onCluster  = []authpb.ResourceType{authpb.ResourceType_CLUSTER}
	onProject  = []authpb.ResourceType{authpb.ResourceType_PROJECT}
	onRepo     = []authpb.ResourceType{authpb.ResourceType_REPO}
	toProjects = []authpb.ResourceType{authpb.ResourceType_CLUSTER, authpb.ResourceType_PROJECT}
	toRepos    = []authpb.ResourceType{authpb.ResourceType_CLUSTER, authpb.ResourceType_PROJECT, authpb.ResourceType_REPO}
	toJobs     = []authpb.ResourceType{authpb.ResourceType_CLUSTER, authpb.ResourceType_JOB}
	ofProjects = []authpb.ResourceType{authpb.ResourceType_PROJECT, authpb.ResourceType_REPO}
)

// Names of the roles that creating something gives.
const (
	RoleRepoReader     = "repoReader"
	RoleRepoWriter     = "repoWriter"
	RoleRepoOwner      = "repoOwner"
	RoleProjectWriter  = "projectWriter"
	RoleProjectOwner   = "projectOwner"
	RoleProjectCreator = "projectCreator"
	RoleClusterAdmin   = "clusterAdmin"
)

// roleTable is every role: what it grants in addition to the roles that it
// includes, where it can be bound, and for which resources it is listed.
var roleTable = []struct {
	name        string
	includes    []string
	boundTo     []authpb.ResourceType
	returnedFor []authpb.ResourceType
	permissions []authpb.Permission
}{
	{RoleRepoReader, nil, toRepos, onRepo, []authpb.Permission{
		authpb.Permission_REPO_READ, authpb.Permission_REPO_INSPECT_COMMIT, authpb.Permission_REPO_LIST_COMMIT,
		authpb.Permission_REPO_LIST_BRANCH, authpb.Permission_REPO_LIST_FILE, authpb.Permission_REPO_INSPECT_FILE,
		authpb.Permission_REPO_ADD_PIPELINE_READER, authpb.Permission_REPO_REMOVE_PIPELINE_READER, authpb.Permission_PIPELINE_LIST_JOB,
	}},
	{RoleRepoWriter, []string{RoleRepoReader}, toRepos, onRepo, []authpb.Permission{
		authpb.Permission_REPO_WRITE, authpb.Permission_REPO_DELETE_COMMIT, authpb.Permission_REPO_CREATE_BRANCH,
		authpb.Permission_REPO_DELETE_BRANCH, authpb.Permission_REPO_ADD_PIPELINE_WRITER,
	}},
	{RoleRepoOwner, []string{RoleRepoWriter}, toRepos, onRepo, []authpb.Permission{
		authpb.Permission_REPO_MODIFY_BINDINGS, authpb.Permission_REPO_DELETE,
	}},
	{"projectViewer", nil, toProjects, onProject, []authpb.Permission{authpb.Permission_PROJECT_LIST_REPO}},
	{RoleProjectWriter, []string{"projectViewer"}, toProjects, onProject, []authpb.Permission{authpb.Permission_PROJECT_CREATE_REPO}},
	{RoleProjectOwner, []string{RoleRepoOwner, RoleProjectWriter}, toProjects, ofProjects, []authpb.Permission{
		authpb.Permission_PROJECT_DELETE, authpb.Permission_PROJECT_MODIFY_BINDINGS, authpb.Permission_PROJECT_SET_DEFAULTS,
	}},
	{RoleProjectCreator, nil, onCluster, onProject, []authpb.Permission{authpb.Permission_PROJECT_CREATE}},
	{"robotUser", nil, onCluster, onCluster, []authpb.Permission{authpb.Permission_CLUSTER_AUTH_GET_ROBOT_TOKEN}},
	{"secretAdmin", nil, onCluster, onCluster, []authpb.Permission{
		authpb.Permission_CLUSTER_CREATE_SECRET, authpb.Permission_CLUSTER_LIST_SECRETS, authpb.Permission_SECRET_INSPECT, authpb.Permission_SECRET_DELETE,
	}},
	{"debugger", []string{"pachdLogReader", "lokiLogReader"}, onCluster, onCluster, []authpb.Permission{authpb.Permission_CLUSTER_DEBUG_DUMP}},
	{"pachdLogReader", nil, onCluster, onCluster, []authpb.Permission{authpb.Permission_CLUSTER_GET_PACHD_LOGS}},
	{"lokiLogReader", nil, onCluster, onCluster, []authpb.Permission{authpb.Permission_CLUSTER_GET_LOKI_LOGS}},
	{"oidcAppAdmin", nil, onCluster, onCluster, []authpb.Permission{
		authpb.Permission_CLUSTER_IDENTITY_DELETE_OIDC_CLIENT, authpb.Permission_CLUSTER_IDENTITY_CREATE_OIDC_CLIENT,
		authpb.Permission_CLUSTER_IDENTITY_UPDATE_OIDC_CLIENT, authpb.Permission_CLUSTER_IDENTITY_LIST_OIDC_CLIENTS,
		authpb.Permission_CLUSTER_IDENTITY_GET_OIDC_CLIENT,
	}},
	{"idpAdmin", nil, onCluster, onCluster, []authpb.Permission{
		authpb.Permission_CLUSTER_IDENTITY_CREATE_IDP, authpb.Permission_CLUSTER_IDENTITY_UPDATE_IDP, authpb.Permission_CLUSTER_IDENTITY_LIST_IDPS,
		authpb.Permission_CLUSTER_IDENTITY_GET_IDP, authpb.Permission_CLUSTER_IDENTITY_DELETE_IDP,
	}},
	{"identityAdmin", nil, onCluster, onCluster, []authpb.Permission{
		authpb.Permission_CLUSTER_IDENTITY_SET_CONFIG, authpb.Permission_CLUSTER_IDENTITY_GET_CONFIG,
	}},
	{"licenseAdmin", nil, onCluster, onCluster, []authpb.Permission{
		authpb.Permission_CLUSTER_LICENSE_ACTIVATE, authpb.Permission_CLUSTER_LICENSE_GET_CODE, authpb.Permission_CLUSTER_LICENSE_ADD_CLUSTER,
		authpb.Permission_CLUSTER_LICENSE_UPDATE_CLUSTER, authpb.Permission_CLUSTER_LICENSE_DELETE_CLUSTER, authpb.Permission_CLUSTER_LICENSE_LIST_CLUSTERS,
	}},
	{"jobAdmin", nil, toJobs, onCluster, []authpb.Permission{authpb.Permission_JOB_SKIP_CTX}},
	{
		RoleClusterAdmin,
		[]string{
			RoleProjectOwner, RoleProjectCreator, "robotUser", "secretAdmin", "debugger",
			"oidcAppAdmin", "idpAdmin", "identityAdmin", "licenseAdmin", "jobAdmin",
		},
		onCluster, toRepos,
		[]authpb.Permission{
			authpb.Permission_CLUSTER_MODIFY_BINDINGS, authpb.Permission_CLUSTER_GET_BINDINGS,
			authpb.Permission_CLUSTER_AUTH_ACTIVATE, authpb.Permission_CLUSTER_AUTH_DEACTIVATE,
			authpb.Permission_CLUSTER_AUTH_GET_CONFIG, authpb.Permission_CLUSTER_AUTH_SET_CONFIG,
			authpb.Permission_CLUSTER_AUTH_MODIFY_GROUP_MEMBERS, authpb.Permission_CLUSTER_AUTH_GET_GROUPS, authpb.Permission_CLUSTER_AUTH_GET_GROUP_USERS,
			authpb.Permission_CLUSTER_AUTH_EXTRACT_TOKENS, authpb.Permission_CLUSTER_AUTH_RESTORE_TOKEN,
			authpb.Permission_CLUSTER_AUTH_ROTATE_ROOT_TOKEN, authpb.Permission_CLUSTER_AUTH_DELETE_EXPIRED_TOKENS,
			authpb.Permission_CLUSTER_AUTH_GET_PERMISSIONS_FOR_PRINCIPAL, authpb.Permission_CLUSTER_AUTH_REVOKE_USER_TOKENS,
			authpb.Permission_CLUSTER_ENTERPRISE_ACTIVATE, authpb.Permission_CLUSTER_ENTERPRISE_HEARTBEAT, authpb.Permission_CLUSTER_ENTERPRISE_GET_CODE,
			authpb.Permission_CLUSTER_ENTERPRISE_DEACTIVATE, authpb.Permission_CLUSTER_ENTERPRISE_PAUSE,
			authpb.Permission_CLUSTER_DELETE_ALL, authpb.Permission_CLUSTER_SET_DEFAULTS, authpb.Permission_CLUSTER_EDIT_CLUSTER_METADATA,
			authpb.Permission_CLUSTER_SNAPSHOTTER, authpb.Permission_CLUSTER_RESTART_PACHYDERM,
		},
	},
}

// permissions is a set of them; their numbers are below 512.
type permissions [8]uint64

func (p *permissions) add(one authpb.Permission) {
	if one > 0 && one < 64*authpb.Permission(len(p)) {
		p[one/64] |= 1 << (one % 64)
	}
}

func (p *permissions) addAll(other *permissions) {
	for i := range p {
		p[i] |= other[i]
	}
}

func (p *permissions) has(one authpb.Permission) bool {
	return one > 0 && one < 64*authpb.Permission(len(p)) && p[one/64]&(1<<(one%64)) != 0
}

func (p *permissions) hasAll(perms []authpb.Permission) bool {
	for _, one := range perms {
		if !p.has(one) {
			return false
		}
	}
	return true
}

// list gives the members by number.
func (p *permissions) list() []authpb.Permission {
	var all []authpb.Permission
	for n := range authpb.Permission_name {
		if p.has(authpb.Permission(n)) {
			all = append(all, authpb.Permission(n))
		}
	}
	slices.Sort(all)
	return all
}

// role is a role with all that it grants.
type role struct {
	*authpb.Role
	grants permissions
}

// roles has the roles by name, with what they include resolved.
type roles map[string]*role

func newRoles() roles {
	all := roles{}
	var grants func(name string) permissions
	grants = func(name string) (p permissions) {
		for _, r := range roleTable {
			if r.name != name {
				continue
			}
			for _, one := range r.permissions {
				p.add(one)
			}
			for _, included := range r.includes {
				more := grants(included)
				p.addAll(&more)
			}
		}
		return p
	}
	for _, r := range roleTable {
		p := grants(r.name)
		all[r.name] = &role{
			Role:   &authpb.Role{Name: r.name, Permissions: p.list(), CanBeBoundTo: r.boundTo, ReturnedFor: r.returnedFor},
			grants: p,
		}
	}
	return all
}
