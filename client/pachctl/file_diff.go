package pachctl

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// maxDiff bounds the files that are compared line by line, in bytes.
const maxDiff = 4 << 20

func (a *app) diffFileCmd() *cobra.Command {
	var nameOnly, shallow bool
	var command, oldProject string
	cmd := &cobra.Command{
		Use:   "file <repo>@<new-branch-or-commit>:<path> [<repo>@<old-branch-or-commit>:<path>]",
		Short: "Show how files differ between commits",
		Long: `Compares a file or directory with the same path in the parent commit, or with
another path or commit. Changed files are shown line by line.`,
		Args: nargs(1, 2),
		RunE: a.remote(func(s *session, args []string) error {
			newFile, err := s.file(args[0])
			if err != nil {
				return err
			}
			var oldFile *pfspb.File
			if len(args) == 2 {
				if oldFile, err = s.file(args[1]); err != nil {
					return err
				}
				if oldProject != "" {
					oldFile.GetCommit().GetRepo().Project = &pfspb.Project{Name: oldProject}
				}
			}
			t := newTable(s.out, "OP\tNAME\tTYPE\tSIZE")
			for d, err := range s.DiffFile(s.ctx, newFile, oldFile, shallow) {
				if err == nil {
					if nameOnly {
						t.row(diffRow(d)...)
					} else {
						err = s.diffContents(d, command)
					}
				}
				if err != nil {
					return err
				}
			}
			if nameOnly {
				return t.flush()
			}
			return nil
		}),
	}
	f := cmd.Flags()
	f.BoolVar(&nameOnly, "name-only", false, "list the names, not the contents")
	f.BoolVarP(&shallow, "shallow", "s", false, "do not go below directories that are on one side only")
	f.StringVar(&command, "diff-command", "", "program that is given the old and new file (default: built in)")
	f.StringVar(&oldProject, "old-project", "", "project of the second argument")
	f.Bool("no-pager", false, "accepted for compatibility: there is no pager")
	return a.projectFlag(cmd)
}

func diffRow(d *pfspb.DiffFileResponse) []string {
	info, op := d.GetNewFile(), "M"
	switch {
	case d.GetOldFile() == nil:
		op = "+"
	case d.GetNewFile() == nil:
		info, op = d.GetOldFile(), "-"
	}
	return []string{op, info.GetFile().GetPath(), fileType(info), size(info.GetSizeBytes())}
}

// diffContents prints how one pair differs; directories differ by their files.
func (s *session) diffContents(d *pfspb.DiffFileResponse, command string) error {
	oldInfo, newInfo := regular(d.GetOldFile()), regular(d.GetNewFile())
	if oldInfo == nil && newInfo == nil {
		return nil
	}
	oldName, newName := diffName(oldInfo), diffName(newInfo)
	if oldInfo.GetSizeBytes() > maxDiff || newInfo.GetSizeBytes() > maxDiff {
		_, err := fmt.Fprintf(s.out, "%s and %s differ (%s, %s)\n", oldName, newName, size(oldInfo.GetSizeBytes()), size(newInfo.GetSizeBytes()))
		return err
	}
	oldText, err := s.content(oldInfo)
	if err != nil {
		return err
	}
	newText, err := s.content(newInfo)
	if err != nil {
		return err
	}
	if command != "" {
		return s.runDiff(command, oldName, oldText, newName, newText)
	}
	if bytes.IndexByte(oldText, 0) >= 0 || bytes.IndexByte(newText, 0) >= 0 {
		_, err = fmt.Fprintf(s.out, "binary files %s and %s differ\n", oldName, newName)
	} else {
		_, err = s.out.Write(diff.Diff(oldName, oldText, newName, newText))
	}
	return err
}

func regular(info *pfspb.FileInfo) *pfspb.FileInfo {
	if info.GetFileType() != pfspb.FileType_FILE {
		return nil
	}
	return info
}

func diffName(info *pfspb.FileInfo) string {
	if info == nil {
		return os.DevNull
	}
	return info.GetFile().GetCommit().GetId() + ":" + info.GetFile().GetPath()
}

func (s *session) content(info *pfspb.FileInfo) ([]byte, error) {
	if info == nil {
		return nil, nil
	}
	var b bytes.Buffer
	_, err := s.GetFile(s.ctx, info.GetFile().GetCommit(), info.GetFile().GetPath(), 0, &b)
	return b.Bytes(), err
}

// runDiff has a program compare two files. Exit code 1 is how such programs say
// that there are differences.
func (s *session) runDiff(command, oldName string, oldText []byte, newName string, newText []byte) error {
	dir, err := os.MkdirTemp("", "pachctl-diff-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	write := func(side, name string, text []byte) string {
		_, base, _ := strings.Cut(name, ":")
		p := filepath.Join(dir, side+"-"+filepath.Base(base))
		err = errors.Join(err, os.WriteFile(p, text, 0o600))
		return p
	}
	words := strings.Fields(command)
	words = append(words, write("old", oldName, oldText), write("new", newName, newText))
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(s.ctx, words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = s.out, s.err
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		return nil
	}
	return err
}
