package server_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWireAuth_Pachctl turns auth on, hands out roles and tokens, and turns it off
// again, with a pachctl of its own for the robot.
func TestWireAuth_Pachctl(t *testing.T) {
	w := newWire(t)
	w.created(sleeper("p"))
	root, robot := newTerminal(t, w), newTerminal(t, w)
	code, token, stderr := root.run("", "auth", "activate")
	if token = strings.TrimSpace(token); code != 0 || len(token) < 32 {
		t.Fatalf("auth activate: %d %q %q", code, token, stderr)
	}
	if code, _, stderr := root.run("", "auth", "activate"); code != 0 {
		t.Errorf("auth activate once more: %d %q", code, stderr)
	}
	config, err := os.Stat(filepath.Join(root.dir, ".pachyderm", "config.json"))
	if err != nil || config.Mode().Perm() != 0o600 {
		t.Errorf("configuration: %v, %v", config, err)
	}
	_, robotToken, _ := root.run("", "auth", "get-robot-token", "one", "-q")
	for _, tc := range []struct {
		x       *terminal
		command string
		stdin   string
		code    int
		stdout  string // has this
		stderr  string // has this
	}{
		{root, "auth whoami", "", 0, "You are \"pach:root\"", ""},
		{root, "auth get repo p", "", 0, "pipeline:default/p: [repoWriter]", ""},
		{robot, "list pipeline", "", 1, "", "no authentication token (try logging in)"},
		{robot, "auth use-auth-token", robotToken, 0, "", ""},
		{robot, "auth whoami", "", 0, "You are \"robot:one\"", ""},
		{robot, "inspect pipeline p", "", 0, "p", ""},
		{robot, "stop pipeline p", "", 1, "", "needs permissions [REPO_WRITE] on REPO default/p"},
		{root, "auth set repo p repoReader,repoWriter robot:one", "", 0, "", ""},
		{root, "auth set repo p nope robot:one", "", 1, "", "unknown role"},
		{root, "auth get repo p", "", 0, "robot:one: [repoReader repoWriter]", ""},
		{robot, "auth check repo p", "", 0, "REPO_WRITE", ""},
		{robot, "stop pipeline p", "", 0, "", ""},
		{root, "auth set repo p none robot:one", "", 0, "", ""},
		{robot, "start pipeline p", "", 1, "", "needs permissions [REPO_WRITE] on REPO default/p"},
		{root, "auth set cluster robotUser robot:one", "", 0, "", ""},
		{root, "auth get cluster", "", 0, "robot:one: [robotUser]", ""},
		{robot, "auth get-groups", "", 0, "", ""},
		{robot, "auth roles-for-permission REPO_DELETE", "", 0, "clusterAdmin\nprojectOwner\nrepoOwner\n", ""},
		{robot, "auth roles-for-permission nope", "", 1, "", "unknown permission \"nope\""},
		{robot, "auth deactivate -y", "", 1, "", "CLUSTER_AUTH_DEACTIVATE"},
		{root, "auth rotate-root-token --supply-root-token", "another", 0, "another\n", ""},
		{root, "auth whoami", "", 0, "pach:root", ""},
		{root, "auth revoke", robotToken, 0, "1 tokens revoked", ""},
		{robot, "auth whoami", "", 1, "", "provided auth token is corrupted or has expired"},
		{root, "auth deactivate", "no\n", 1, "", ""},
		{root, "auth deactivate -y", "", 0, "", ""},
		{root, "auth whoami", "", 1, "", "not activated"},
	} {
		code, stdout, stderr := tc.x.run(tc.stdin, strings.Fields(tc.command)...)
		if code != tc.code || !strings.Contains(stdout, tc.stdout) || !strings.Contains(stderr, tc.stderr) {
			t.Errorf("pachctl %s: %d %q %q; want %d %q %q", tc.command, code, stdout, stderr, tc.code, tc.stdout, tc.stderr)
		}
		if strings.Contains(stderr, token) || strings.Contains(stderr, strings.TrimSpace(robotToken)) {
			t.Errorf("pachctl %s prints a token: %s", tc.command, stderr)
		}
	}
}
