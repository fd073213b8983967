package client_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/minipachd/minipachd/client"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

const someID = "0123456789ab4def0123456789abcdef"

func repoOf(project, name, kind string) *pfspb.Repo {
	return &pfspb.Repo{Project: &pfspb.Project{Name: project}, Name: name, Type: kind}
}

func TestParseCommit(t *testing.T) {
	r := repoOf("p", "r", "user")
	commit := func(branch, id string) *pfspb.Commit {
		return &pfspb.Commit{Repo: r, Id: id, Branch: &pfspb.Branch{Repo: r, Name: branch}}
	}
	for in, want := range map[string]*pfspb.Commit{
		"r@master":               commit("master", ""),
		"r@" + someID:            commit("", someID),
		"r@master^":              commit("", "master^"),
		"r@master~2":             commit("", "master~2"),
		"r@master.1":             commit("", "master.1"),
		"r@" + someID + "^^":     commit("", someID+"^^"),
		"r@master=" + someID:     commit("master", someID),
		"p/r@master":             commit("master", ""),
		"r@" + someID[1:]:        commit(someID[1:], ""),
		"r@" + up(someID):        commit(up(someID), ""),
		"r@0123456789ab1def0123": commit("0123456789ab1def0123", ""),
	} {
		got, err := client.ParseCommit("p", in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
		} else if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", in, diff)
		}
	}
	for _, in := range []string{"", "r", "r@", "@master", "r@a:/b", "r@a@b", "r@=x", "r@x=", "r/@x"} {
		if got, err := client.ParseCommit("p", in); err == nil {
			t.Errorf("%q: got %v, want an error", in, got)
		}
	}
}

func up(s string) string { return strings.ToUpper(s) }

func TestParseRepoAndBranch(t *testing.T) {
	for in, want := range map[string]*pfspb.Repo{
		"r":      repoOf("default", "r", "user"),
		"q/r":    repoOf("q", "r", "user"),
		"r.spec": repoOf("default", "r", "spec"),
		"r.meta": repoOf("default", "r", "meta"),
		"r.x":    repoOf("default", "r.x", "user"), // the server refuses the name
	} {
		got, err := client.ParseRepo("", in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
		} else if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", in, diff)
		}
		b, err := client.ParseBranch("", in+"@b")
		if err != nil || client.BranchName(b) != client.RepoName(want)+"@b" {
			t.Errorf("%q@b: got %v, %v", in, b, err)
		}
	}
	for _, in := range []string{"r", "r@", "@b", "r@b^", "r@b=x", "r@b:/p"} {
		if got, err := client.ParseBranch("", in); err == nil {
			t.Errorf("branch %q: got %v, want an error", in, got)
		}
	}
}

func TestParseFile(t *testing.T) {
	for in, want := range map[string]struct{ commit, path string }{
		"r@master":            {"default/r@master", ""},
		"r@master:":           {"default/r@master", ""},
		"r@master:/":          {"default/r@master", "/"},
		"r@master:/a/b":       {"default/r@master", "/a/b"},
		"r@master:a:b@c":      {"default/r@master", "a:b@c"},
		"r@master^:/a":        {"default/r@master^", "/a"},
		"r@" + someID + ":/a": {"default/r@" + someID, "/a"},
	} {
		f, err := client.ParseFile("", in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
		} else if client.CommitName(f.GetCommit()) != want.commit || f.GetPath() != want.path {
			t.Errorf("%q: got %s %q", in, client.CommitName(f.GetCommit()), f.GetPath())
		}
	}
	for _, in := range []string{"", "r", "r:/a", "r@:/a", "@master:/a"} {
		if f, err := client.ParseFile("", in); err == nil {
			t.Errorf("%q: got %v, want an error", in, f)
		}
	}
}
