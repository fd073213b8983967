package pachctl

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	grpcgzip "google.golang.org/grpc/encoding/gzip"

	"github.com/minipachd/minipachd/client"
	"github.com/minipachd/minipachd/client/specfile"
)

// putter is one `put file`: everything it puts is in one commit or not at all.
type putter struct {
	s           *session
	m           *client.Modifier
	opts        []client.FileOption
	recursive   bool
	fullPath    bool
	untar       bool
	concurrency uint32
	bar         *progressbar.ProgressBar // nil without a terminal
}

func (a *app) putFileCmd() *cobra.Command {
	var sources []string
	var inputFile, key string
	var appending, compress, progress bool
	p := &putter{}
	keyed := func() bool { return false }
	cmd := &cobra.Command{
		Use:   "file <repo>@<branch-or-commit>[:<path>]",
		Short: "Put files, from disk, standard input or URLs",
		Long: `Puts files in place of what is there; with -a after what is there. On a branch
without an open commit all of it is one commit.

    pachctl put file repo@branch:/path                      # from standard input
    pachctl put file repo@branch -f file                    # as /file
    pachctl put file repo@branch:/dir/ -f file1 -f file2    # below /dir
    pachctl put file -r repo@branch:/dir -f dir             # a tree
    pachctl put file repo@branch:/path -f https://host/x    # fetched by pachd
    pachctl put file repo@branch -i list                    # names in a file`,
		Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			file, err := s.file(args[0])
			if err != nil {
				return err
			}
			if inputFile != "" {
				listed, err := s.readList(inputFile)
				if err != nil {
					return err
				}
				sources = append(sources, listed...)
			}
			if len(sources) == 0 {
				if inputFile != "" {
					return fmt.Errorf("%s names no files", inputFile)
				}
				sources = []string{"-"}
			}
			p.s = s
			if appending {
				p.opts = append(p.opts, client.Append())
			}
			var call []grpc.CallOption
			if compress {
				call = append(call, grpc.UseCompressor(grpcgzip.Name))
			}
			if err := p.check(file.GetPath(), sources); err != nil {
				return err
			}
			// A repo that is missing is better found before gigabytes are sent.
			if _, err := s.InspectRepo(s.ctx, file.GetCommit().GetRepo()); err != nil {
				return err
			}
			if progress {
				p.startBar(sources)
				defer p.finishBar()
			}
			put := func(m *client.Modifier) error {
				p.m = m
				for _, src := range sources {
					if err := p.put(target(file.GetPath(), src, p.fullPath, len(sources) > 1, p.isTree(src)), src); err != nil {
						return err
					}
				}
				return nil
			}
			if !keyed() {
				return s.ModifyFile(s.ctx, file.GetCommit(), put, call...)
			}
			id, err := s.ModifyFileOnce(s.ctx, file.GetCommit(), key, put, call...)
			if err == nil {
				fmt.Fprintln(s.out, id)
			}
			return err
		}),
	}
	f := cmd.Flags()
	keyed = func() bool { return f.Changed("idempotency-key") }
	f.StringSliceVarP(&sources, "file", "f", nil, "file or URL to put, - for standard input; may be repeated (default: -)")
	f.StringVarP(&inputFile, "input-file", "i", "", "file or URL with the names of files and URLs to put, one per line; - for standard input")
	f.BoolVarP(&p.recursive, "recursive", "r", false, "put everything below directories, and below object-store URLs")
	f.BoolVarP(&appending, "append", "a", false, "add to what the files hold")
	f.BoolP("overwrite", "o", false, "replace what the files hold (the default)")
	f.BoolVarP(&compress, "compress", "c", false, "compress on the way to pachd")
	f.Uint32VarP(&p.concurrency, "parallelism", "p", 10, "downloads that pachd makes at a time for a URL")
	f.StringVar(&key, "idempotency-key", "", "make one commit only, however often the command is repeated with this key; prints the commit's id")
	f.BoolVar(&p.fullPath, "full-path", false, "use the whole name given to -f as the target, not its last element")
	f.BoolVar(&p.untar, "untar", false, "put the files inside .tar, .tar.gz and .tgz files, or a tar on standard input, instead of them")
	f.BoolVar(&progress, "progress", isTerminal(os.Stderr), "show a progress bar (default: on a terminal)")
	return a.projectFlag(cmd)
}

// readList reads names, one per line, from a file, a URL or "-".
func (s *session) readList(name string) ([]string, error) {
	r, err := specfile.Open(s.ctx, name, s.in)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var names []string
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if n := strings.TrimSpace(lines.Text()); n != "" {
			names = append(names, n)
		}
	}
	return names, lines.Err()
}

// check refuses what cannot work, before anything is sent.
func (p *putter) check(dst string, sources []string) error {
	for _, src := range sources {
		switch {
		case src == "-":
			if p.untar {
				break
			}
			if dst == "" || strings.HasSuffix(dst, "/") || len(sources) > 1 {
				return errors.New("standard input has no name: give one path for it, <repo>@<branch>:<path>")
			}
		case isURL(src):
		default:
			info, err := os.Stat(src)
			if err != nil {
				return fmt.Errorf("%s: %w", src, cause(err))
			}
			if info.IsDir() && !p.recursive {
				return fmt.Errorf("%s is a directory: give -r to put everything below it", src)
			}
		}
	}
	return nil
}

// cause takes the operation and the name off an error of the file system.
func cause(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

func isURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme != "" && strings.Contains(s, "://")
}

// isTree tells whether src stands for several files.
func (p *putter) isTree(src string) bool {
	if isURL(src) {
		return p.recursive
	}
	if p.isArchive(src) {
		return true
	}
	info, err := os.Stat(src)
	return err == nil && info.IsDir()
}

// target is where src goes if the user has said dst: there, or below it under
// its own name when dst is empty, a directory or shared with others.
func target(dst, src string, full, several, tree bool) string {
	if dst != "" && !several && (tree || !strings.HasSuffix(dst, "/")) {
		return dst
	}
	name := filepath.ToSlash(src)
	if u, err := url.Parse(src); err == nil && isURL(src) {
		name = u.Path
	}
	switch {
	case src == "-":
		name = ""
	case full:
	case name == "" || name == "/":
		name = ""
	default:
		name = path.Base(path.Clean(name))
	}
	return path.Join("/", dst, name)
}

func (p *putter) put(dst, src string) error {
	switch {
	case p.isArchive(src):
		return p.putArchive(dst, src)
	case src == "-":
		if isTerminal(p.s.in) {
			fmt.Fprintln(p.s.err, "reading from the terminal; Ctrl-D ends the file")
		}
		return p.putReader(dst, p.s.in)
	case isURL(src):
		opts := append([]client.FileOption{client.Concurrency(p.concurrency)}, p.opts...)
		if p.recursive {
			opts = append(opts, client.Recursive())
		}
		return p.m.PutURL(dst, src, opts...)
	}
	info, err := os.Stat(src)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return p.putTree(dst, src)
	}
	return p.putPath(dst, src)
}

func (p *putter) putPath(dst, src string) error {
	f, err := os.Open(src)
	if err != nil {
		return err
	}
	defer f.Close()
	return p.putReader(dst, f)
}

func (p *putter) putReader(dst string, r io.Reader) error {
	if p.bar != nil {
		p.bar.Describe(path.Base(dst))
		r = io.TeeReader(r, p.bar)
	}
	return p.m.PutFile(dst, r, p.opts...)
}

// putTree puts every file below a directory, sorted. Links to files are
// followed; what is neither file nor directory is left out, and said so.
func (p *putter) putTree(dst, dir string) error {
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := os.Stat(name)
		if err == nil && !info.Mode().IsRegular() {
			err = errors.New("not a regular file")
		}
		if err != nil {
			fmt.Fprintf(p.s.err, "left out %s: %v\n", name, cause(err))
			return nil
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		return p.putPath(path.Join("/", dst, filepath.ToSlash(rel)), name)
	})
}

// isArchive tells whether the files inside src are meant, not src.
func (p *putter) isArchive(src string) bool {
	if !p.untar || isURL(src) {
		return false
	}
	return src == "-" || strings.HasSuffix(src, ".tar") || strings.HasSuffix(src, ".tar.gz") || strings.HasSuffix(src, ".tgz")
}

// gunzip reads what r holds, uncompressed if it is compressed by gzip, which
// shows in its first bytes.
func gunzip(r io.Reader) (io.Reader, error) {
	b := bufio.NewReader(r)
	if first, _ := b.Peek(2); !bytes.Equal(first, []byte{0x1f, 0x8b}) { // what is shorter is no gzip either
		return b, nil
	}
	return gzip.NewReader(b)
}

// putArchive puts the files of a tar below dst. Links and devices are refused.
func (p *putter) putArchive(dst, src string) error {
	name, in := "standard input", p.s.in
	if src != "-" {
		f, err := os.Open(src)
		if err != nil {
			return err
		}
		defer f.Close()
		name, in = src, f
	}
	r, err := gunzip(in)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s is no tar, or a damaged one: %w", name, err)
		}
		switch h.Typeflag {
		case tar.TypeDir, tar.TypeXGlobalHeader:
		case tar.TypeReg:
			// The root in front of the join keeps ".." inside dst.
			if err := p.putReader(path.Join("/", dst, path.Join("/", h.Name)), t); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s: %s is neither a file nor a directory", name, h.Name)
		}
	}
}

// startBar shows progress if a person is looking: towards the total if every
// source has a known size.
func (p *putter) startBar(sources []string) {
	if !isTerminal(p.s.err) {
		return
	}
	total := int64(0)
	for _, src := range sources {
		info, err := os.Stat(src)
		if err != nil || !info.Mode().IsRegular() {
			total = -1
			break
		}
		total += info.Size()
	}
	p.bar = newBar(p.s.err, total)
}

func newBar(w io.Writer, total int64) *progressbar.ProgressBar {
	return progressbar.NewOptions64(total, progressbar.OptionSetWriter(w), progressbar.OptionShowBytes(true),
		progressbar.OptionShowTotalBytes(true), progressbar.OptionFullWidth(), progressbar.OptionClearOnFinish())
}

func (p *putter) finishBar() {
	if p.bar != nil {
		_ = p.bar.Finish() // it only draws
	}
}
