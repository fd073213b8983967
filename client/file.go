package client

import (
	"context"
	"errors"
	"io"
	"iter"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// GetFile writes a file from byte offset on to w and tells how many bytes that
// were. path may be a glob that matches exactly one file.
func (c *Client) GetFile(ctx context.Context, commit *pfspb.Commit, path string, offset int64, w io.Writer) (int64, error) {
	r, err := c.GetFileReader(ctx, commit, path, offset)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	return io.Copy(w, r)
}

// GetFileReader opens a file at byte offset. A file that is missing is reported
// here, not by the first read. Close ends the call; ctx covers all of reading.
func (c *Client) GetFileReader(ctx context.Context, commit *pfspb.Commit, path string, offset int64) (io.ReadCloser, error) {
	return openBytes(ctx, func(ctx context.Context) (bytesStream, error) {
		return c.PFS.GetFile(ctx, &pfspb.GetFileRequest{File: NewFile(commit, path), Offset: offset})
	})
}

// GetFileTAR opens the files and directories that the glob path matches, with
// everything below, as one tar; entries have absolute paths.
func (c *Client) GetFileTAR(ctx context.Context, commit *pfspb.Commit, path string) (io.ReadCloser, error) {
	return openBytes(ctx, func(ctx context.Context) (bytesStream, error) {
		return c.PFS.GetFileTAR(ctx, &pfspb.GetFileRequest{File: NewFile(commit, path)})
	})
}

type bytesStream = grpc.ServerStreamingClient[wrapperspb.BytesValue]

// openBytes starts a stream of bytes and waits for its first message.
func openBytes(ctx context.Context, open func(context.Context) (bytesStream, error)) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	s, err := open(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	r := &bytesReader{stream: s, cancel: cancel}
	if err := r.fill(); err != nil && !errors.Is(err, io.EOF) {
		cancel()
		return nil, err
	}
	return r, nil
}

// bytesReader reads the payloads of a stream as one.
type bytesReader struct {
	stream bytesStream
	cancel context.CancelFunc
	rest   []byte
	err    error // io.EOF at the end
}

// fill makes rest non-empty, or fails.
func (r *bytesReader) fill() error {
	for len(r.rest) == 0 && r.err == nil {
		var m *wrapperspb.BytesValue
		if m, r.err = r.stream.Recv(); r.err == nil {
			r.rest = m.GetValue()
		}
	}
	if len(r.rest) > 0 {
		return nil
	}
	return r.err
}

func (r *bytesReader) Read(p []byte) (int, error) {
	if err := r.fill(); err != nil {
		return 0, err
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// WriteTo lets io.Copy hand over whole messages.
func (r *bytesReader) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		if err := r.fill(); errors.Is(err, io.EOF) {
			return total, nil
		} else if err != nil {
			return total, err
		}
		n, err := w.Write(r.rest)
		total += int64(n)
		r.rest = r.rest[n:]
		if err != nil {
			return total, err
		}
	}
}

// Close ends the call.
func (r *bytesReader) Close() error {
	r.cancel()
	r.rest = nil
	if r.err == nil {
		r.err = io.ErrClosedPipe
	}
	return nil
}

// InspectFile describes a file or directory; "d" and "d/" are the same directory.
func (c *Client) InspectFile(ctx context.Context, commit *pfspb.Commit, path string) (*pfspb.FileInfo, error) {
	return c.PFS.InspectFile(ctx, &pfspb.InspectFileRequest{File: NewFile(commit, path)})
}

// ListFileOption makes ListFile and WalkFile give one page.
type ListFileOption func(*filePage)

type filePage struct {
	after   string
	number  int64
	reverse bool
}

// FileLimit gives at most n entries (0 is all, 100000 the most).
func FileLimit(n int64) ListFileOption { return func(p *filePage) { p.number = n } }

// After starts with the entry after path (before it, if the order is reversed).
func After(path string) ListFileOption { return func(p *filePage) { p.after = path } }

// Reversed goes from the last path to the first; it needs FileLimit.
func Reversed() ListFileOption { return func(p *filePage) { p.reverse = true } }

func filePageOf(commit *pfspb.Commit, opts []ListFileOption) (p filePage, marker *pfspb.File) {
	for _, o := range opts {
		o(&p)
	}
	if p.after != "" {
		marker = NewFile(commit, p.after)
	}
	return p, marker
}

// ListFile lists what is directly in the directory path, in byte order. A
// missing directory has no entries; a file lists itself.
func (c *Client) ListFile(ctx context.Context, commit *pfspb.Commit, path string, opts ...ListFileOption) iter.Seq2[*pfspb.FileInfo, error] {
	p, marker := filePageOf(commit, opts)
	req := &pfspb.ListFileRequest{File: NewFile(commit, path), PaginationMarker: marker, Number: p.number, Reverse: p.reverse}
	return each(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[pfspb.FileInfo], error) {
		return c.PFS.ListFile(ctx, req)
	})
}

// WalkFile lists path and everything below it, in byte order.
func (c *Client) WalkFile(ctx context.Context, commit *pfspb.Commit, path string, opts ...ListFileOption) iter.Seq2[*pfspb.FileInfo, error] {
	p, marker := filePageOf(commit, opts)
	req := &pfspb.WalkFileRequest{File: NewFile(commit, path), PaginationMarker: marker, Number: p.number, Reverse: p.reverse}
	return each(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[pfspb.FileInfo], error) {
		return c.PFS.WalkFile(ctx, req)
	})
}

// GlobFile lists the files and directories that match pattern.
func (c *Client) GlobFile(ctx context.Context, commit *pfspb.Commit, pattern string) iter.Seq2[*pfspb.FileInfo, error] {
	req := &pfspb.GlobFileRequest{Commit: commit, Pattern: pattern}
	return each(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[pfspb.FileInfo], error) {
		return c.PFS.GlobFile(ctx, req)
	})
}

// DiffFile lists what differs between two trees, directories included; a side
// that lacks the path is nil. oldFile nil is the same path in the parent commit.
func (c *Client) DiffFile(ctx context.Context, newFile, oldFile *pfspb.File, shallow bool) iter.Seq2[*pfspb.DiffFileResponse, error] {
	req := &pfspb.DiffFileRequest{NewFile: newFile, OldFile: oldFile, Shallow: shallow}
	return each(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[pfspb.DiffFileResponse], error) {
		return c.PFS.DiffFile(ctx, req)
	})
}
