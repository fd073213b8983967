package pachctl

import (
	"fmt"
	"iter"

	"github.com/spf13/cobra"

	"github.com/minipachd/minipachd/client"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

func (s *session) listFiles(seq iter.Seq2[*pfspb.FileInfo, error]) error {
	return list(s, seq, "NAME\tTYPE\tSIZE", func(f *pfspb.FileInfo) []string {
		return []string{f.GetFile().GetPath(), fileType(f), size(f.GetSizeBytes())}
	})
}

func fileType(f *pfspb.FileInfo) string {
	if f.GetFileType() == pfspb.FileType_DIR {
		return "dir"
	}
	return "file"
}

func (a *app) listFileCmd() *cobra.Command {
	var number int64
	var after string
	var reverse bool
	cmd := &cobra.Command{
		Use: "file <repo>@<branch-or-commit>[:<dir>]", Aliases: []string{"files"}, Short: "List a directory", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			file, err := s.file(args[0])
			if err != nil {
				return err
			}
			opts := []client.ListFileOption{client.FileLimit(number), client.After(after)}
			if reverse {
				opts = append(opts, client.Reversed())
			}
			return s.listFiles(s.ListFile(s.ctx, file.GetCommit(), file.GetPath(), opts...))
		}),
	}
	f := cmd.Flags()
	f.Int64VarP(&number, "number", "n", 0, "at most that many (0: all)")
	f.StringVar(&after, "after", "", "start after this path")
	f.BoolVar(&reverse, "reverse", false, "from the last path to the first; needs --number")
	return a.projectFlag(a.outputFlags(cmd))
}

func (a *app) globFileCmd() *cobra.Command {
	return a.projectFlag(a.outputFlags(&cobra.Command{
		Use: "file <repo>@<branch-or-commit>:<pattern>", Aliases: []string{"files"}, Short: "List files and directories that match a pattern", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			file, err := s.file(args[0])
			if err != nil {
				return err
			}
			return s.listFiles(s.GlobFile(s.ctx, file.GetCommit(), file.GetPath()))
		}),
	}))
}

func (a *app) inspectFileCmd() *cobra.Command {
	return a.projectFlag(a.outputFlags(&cobra.Command{
		Use: "file <repo>@<branch-or-commit>:<path>", Short: "Show a file or directory", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			file, err := s.file(args[0])
			if err != nil {
				return err
			}
			info, err := s.InspectFile(s.ctx, file.GetCommit(), file.GetPath())
			if err != nil {
				return err
			}
			return show(s, info, func(t *table) {
				t.field("Path", info.GetFile().GetPath())
				t.field("Datum", info.GetFile().GetDatum())
				t.field("Type", fileType(info))
				t.field("Size", size(info.GetSizeBytes()))
				t.field("Committed", s.when(info.GetCommitted()))
				t.field("Hash", fmt.Sprintf("%x", info.GetHash()))
			})
		}),
	}))
}

func (a *app) deleteFileCmd() *cobra.Command {
	var recursive bool
	cmd := &cobra.Command{
		Use: "file <repo>@<branch>:<path>", Short: "Delete a file", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			file, err := s.file(args[0])
			if err != nil {
				return err
			}
			path := file.GetPath()
			if path == "" {
				return fmt.Errorf("%q has no path: want <repo>@<branch>:<path>", args[0])
			}
			if recursive && path[len(path)-1] != '/' {
				path += "/"
			}
			return s.DeleteFile(s.ctx, file.GetCommit(), path)
		}),
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "delete a directory with everything below it")
	return a.projectFlag(cmd)
}

func (a *app) copyFileCmd() *cobra.Command {
	var appending bool
	var srcProject, dstProject string
	cmd := &cobra.Command{
		Use: "file <repo>@<branch-or-commit>:<path> <repo>@<branch>:<path>", Short: "Copy a file or directory between commits", Args: nargs(2, 2),
		RunE: a.remote(func(s *session, args []string) error {
			or := func(name string) string {
				if name == "" {
					return s.Project()
				}
				return name
			}
			src, err := client.ParseFile(or(srcProject), args[0])
			if err != nil {
				return err
			}
			dst, err := client.ParseFile(or(dstProject), args[1])
			if err != nil {
				return err
			}
			var opts []client.FileOption
			if appending {
				opts = append(opts, client.Append())
			}
			return s.CopyFile(s.ctx, dst.GetCommit(), dst.GetPath(), src, opts...)
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&appending, "append", "a", false, "add to what the destination holds")
	f.BoolP("overwrite", "o", false, "replace the destination (the default)")
	f.StringVar(&srcProject, "src-project", "", "project of the source")
	f.StringVar(&dstProject, "dest-project", "", "project of the destination")
	return a.projectFlag(cmd)
}
