package pachctl

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

func (a *app) getFileCmd() *cobra.Command {
	var output string
	var offset int64
	var recursive, progress bool
	cmd := &cobra.Command{
		Use:   "file <repo>@<branch-or-commit>:<path>",
		Short: "Read a file, or with -r a directory",
		Long: `Writes a file to standard output, or to the path of -o. With -r it writes
everything below a directory (or all that a pattern matches) to the directory of
-o; "-o -" gives a tar on standard output instead.`,
		Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			file, err := s.file(args[0])
			if err != nil {
				return err
			}
			if offset < 0 {
				return errors.New("--offset cannot be negative")
			}
			if recursive {
				if offset != 0 {
					return errors.New("--offset and -r exclude each other")
				}
				return s.getTree(file, output)
			}
			return s.getFile(file, output, offset, progress)
		}),
	}
	f := cmd.Flags()
	f.StringVarP(&output, "output", "o", "", "path to write to (default, and -: standard output)")
	f.Int64Var(&offset, "offset", 0, "start at this byte")
	f.Int64Var(&offset, "offset-bytes", 0, "the same as --offset")
	f.BoolVarP(&recursive, "recursive", "r", false, "get a directory with everything below it")
	f.BoolVar(&progress, "progress", isTerminal(os.Stderr), "show a progress bar (default: on a terminal)")
	f.Bool("retry", false, "accepted for compatibility")
	return a.projectFlag(cmd)
}

func (s *session) getFile(file *pfspb.File, output string, offset int64, progress bool) (err error) {
	r, err := s.GetFileReader(s.ctx, file.GetCommit(), file.GetPath(), offset)
	if err != nil {
		return needsRecursive(err)
	}
	defer r.Close()
	w := s.out
	if output != "" && output != "-" {
		if info, err := os.Stat(output); err == nil && info.IsDir() {
			output = filepath.Join(output, path.Base(file.GetPath()))
		}
		f, createErr := create(output)
		if createErr != nil {
			return createErr
		}
		defer func() { err = f.close(err) }() // the result of this function, whatever it is
		w = f
		if progress && isTerminal(s.err) {
			total := int64(-1)
			if info, err := s.InspectFile(s.ctx, file.GetCommit(), file.GetPath()); err == nil { // a glob has none
				total = info.GetSizeBytes() - offset
			}
			bar := newBar(s.err, total)
			defer func() { _ = bar.Finish() }() // it only draws
			w = io.MultiWriter(f, bar)
		}
	}
	_, err = io.Copy(w, r)
	return err
}

// needsRecursive adds to an error that the path stands for several files what to
// do about it here.
func needsRecursive(err error) error {
	if strings.Contains(err.Error(), "Use GetFileTAR instead") {
		return errors.New("this is not one file but a directory or a pattern that matches several: get them with -r -o <directory>")
	}
	return err
}

// outputFile is a file that appears under its name when it is complete.
type outputFile struct {
	*os.File
	name string // empty: written in place
}

// create makes a file beside name. What is there and not a regular file, such as
// a pipe or /dev/null, is opened as it is.
func create(name string) (*outputFile, error) {
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		return &outputFile{File: f}, err
	}
	f, err := os.OpenFile(fmt.Sprintf("%s.part-%d", name, os.Getpid()), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, cause(err))
	}
	return &outputFile{File: f, name: name}, nil
}

// close puts the file in its place if err is nil, and removes it if not.
func (f *outputFile) close(err error) error {
	err = errors.Join(err, f.Close())
	if f.name == "" {
		return err
	}
	if err == nil {
		err = os.Rename(f.Name(), f.name)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// getTree extracts a directory, or all that a pattern matches, below output.
func (s *session) getTree(file *pfspb.File, output string) error {
	if output == "" {
		return errors.New("-r needs -o: a directory to write to, or - for a tar on standard output")
	}
	pattern := path.Join("/", file.GetPath())
	root := globRoot(pattern)
	if root == pattern {
		info, err := s.InspectFile(s.ctx, file.GetCommit(), file.GetPath())
		if err != nil {
			return err
		}
		if info.GetFileType() == pfspb.FileType_FILE {
			root = path.Dir(pattern)
		}
	}
	r, err := s.GetFileTAR(s.ctx, file.GetCommit(), pattern)
	if err != nil {
		return err
	}
	defer r.Close()
	if output == "-" {
		_, err := io.Copy(s.out, r)
		return err
	}
	return extract(r, root, output)
}

// globRoot is the deepest directory that everything a pattern matches is in;
// the pattern itself if it has no special characters.
func globRoot(pattern string) string {
	i := strings.IndexAny(pattern, `*?[]{}!()@+^\`)
	if i < 0 {
		return pattern
	}
	return path.Dir(pattern[:i] + "x")
}

// extract writes the files and directories of a tar below dir, root taken off
// the front of their names. Nothing is written outside of dir.
func extract(r io.Reader, root, dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	inside, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer inside.Close()
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path.Join("/", h.Name), strings.TrimSuffix(root, "/"))
		name = strings.TrimPrefix(name, "/")
		if name == "" {
			continue
		}
		local := filepath.FromSlash(name)
		if h.Typeflag == tar.TypeDir {
			err = inside.MkdirAll(local, 0o777)
		} else {
			err = extractFile(inside, local, t)
		}
		if err != nil {
			return err
		}
	}
}

func extractFile(inside *os.Root, name string, r io.Reader) error {
	if err := inside.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		return err
	}
	f, err := inside.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}
