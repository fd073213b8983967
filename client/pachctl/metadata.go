package pachctl

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/minipachd/minipachd/client"
	metadatapb "github.com/minipachd/minipachd/proto/metadata"
)

func (a *app) editMetadataCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "metadata (<type> <name> add|edit|delete|set <data>)...",
		Short: "Change the metadata of projects, repos, branches, commits, pipelines or the cluster",
		Long: `Changes the key-value pairs attached to things. All edits of one command take
effect together, or none. The type is project, repo, branch, commit, pipeline or
cluster; the cluster needs no name.

    pachctl edit metadata repo events add owner=sensors     # fails if the key is there
    pachctl edit metadata commit events@master edit reviewed=yes
    pachctl edit metadata branch events@master delete owner
    pachctl edit metadata project default set '{"a":"1","b":"2"}'   # instead of all
    pachctl edit metadata cluster edit site=lab repo events edit site=lab`,
		Args: nargs(3, -1),
		RunE: a.remote(func(s *session, args []string) error {
			var edits []*metadatapb.Edit
			for len(args) > 0 {
				e, rest, err := s.metadataEdit(args)
				if err != nil {
					return err
				}
				edits, args = append(edits, e), rest
			}
			return s.EditMetadata(s.ctx, edits...)
		}),
	}
	return a.projectFlag(cmd)
}

// metadataEdit reads one edit off the arguments.
func (s *session) metadataEdit(args []string) (*metadatapb.Edit, []string, error) {
	kind, name, rest := args[0], "", args[1:]
	short := kind == "cluster" && len(rest) >= 2 && isEdit(rest[0]) && (len(rest) == 2 || !isEdit(rest[1]))
	if !short {
		if len(rest) < 3 {
			return nil, nil, fmt.Errorf("edit metadata: %q is not complete: want <type> <name> add|edit|delete|set <data>", strings.Join(args, " "))
		}
		name, rest = rest[0], rest[1:]
	}
	e := &metadatapb.Edit{}
	if err := s.metadataTarget(e, kind, name); err != nil {
		return nil, nil, err
	}
	if err := metadataChange(e, rest[0], rest[1]); err != nil {
		return nil, nil, err
	}
	return e, rest[2:], nil
}

func isEdit(word string) bool {
	switch word {
	case "add", "edit", "delete", "set":
		return true
	}
	return false
}

// metadataTarget says what an edit is about.
func (s *session) metadataTarget(e *metadatapb.Edit, kind, name string) error {
	switch kind {
	case "project":
		e.Target = &metadatapb.Edit_Project{Project: client.PickProject(name)}
	case "repo":
		repo, err := s.repo(name)
		if err != nil {
			return err
		}
		e.Target = &metadatapb.Edit_Repo{Repo: client.PickRepo(repo)}
	case "branch":
		branch, err := s.branch(name)
		if err != nil {
			return err
		}
		e.Target = &metadatapb.Edit_Branch{Branch: client.PickBranch(branch)}
	case "commit":
		commit, err := s.commit(name)
		if err != nil {
			return err
		}
		picker, err := client.PickCommit(commit)
		if err != nil {
			return err
		}
		e.Target = &metadatapb.Edit_Commit{Commit: picker}
	case "pipeline":
		e.Target = &metadatapb.Edit_Pipeline{Pipeline: client.PickPipeline(s.pipeline(name))}
	case "cluster":
		e.Target = &metadatapb.Edit_Cluster{Cluster: &metadatapb.ClusterPicker{}}
	default:
		return fmt.Errorf("edit metadata: %q is none of project, repo, branch, commit, pipeline and cluster", kind)
	}
	return nil
}

// metadataChange says what an edit does.
func metadataChange(e *metadatapb.Edit, verb, data string) error {
	key, value, isPair := strings.Cut(data, "=")
	switch verb {
	case "add", "edit":
		if !isPair {
			return fmt.Errorf("edit metadata: %s takes <key>=<value>, not %q", verb, data)
		}
		if verb == "add" {
			e.Op = &metadatapb.Edit_AddKey_{AddKey: &metadatapb.Edit_AddKey{Key: key, Value: value}}
		} else {
			e.Op = &metadatapb.Edit_EditKey_{EditKey: &metadatapb.Edit_EditKey{Key: key, Value: value}}
		}
	case "delete":
		e.Op = &metadatapb.Edit_DeleteKey_{DeleteKey: &metadatapb.Edit_DeleteKey{Key: data}}
	case "set":
		var all map[string]string
		if err := json.Unmarshal([]byte(data), &all); err != nil {
			return fmt.Errorf("edit metadata: set takes a JSON object of strings: %w", err)
		}
		e.Op = &metadatapb.Edit_Replace_{Replace: &metadatapb.Edit_Replace{Replacement: all}}
	default:
		return fmt.Errorf("edit metadata: %q is none of add, edit, delete and set", verb)
	}
	return nil
}
