package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// FileOption changes one operation of a Modifier.
type FileOption func(*fileOptions)

type fileOptions struct {
	appending   bool
	datum       string
	recursive   bool
	concurrency uint32
	callOptions []grpc.CallOption
	key         *string // of IdempotencyKey
}

// Append adds to what the file holds instead of replacing it.
func Append() FileOption { return func(o *fileOptions) { o.appending = true } }

// Datum tags the file with the datum that wrote it ("default" if not given).
func Datum(name string) FileOption { return func(o *fileOptions) { o.datum = name } }

// Recursive makes PutURL take every object under an object-store URL.
func Recursive() FileOption { return func(o *fileOptions) { o.recursive = true } }

// Concurrency bounds the downloads that the server makes at a time for PutURL
// (default 50, at most 1000).
func Concurrency(n uint32) FileOption { return func(o *fileOptions) { o.concurrency = n } }

// Compressed sends with gzip. It counts for the calls that open a stream of
// their own, such as PutFile of Client.
func Compressed() FileOption {
	return func(o *fileOptions) { o.callOptions = append(o.callOptions, grpc.UseCompressor(gzip.Name)) }
}

func fileOptionsOf(opts []FileOption) fileOptions {
	var o fileOptions
	for _, f := range opts {
		f(&o)
	}
	return o
}

// Modifier sends the operations of one ModifyFile call, in order. After an error
// every further operation fails with it, and nothing of the call is committed.
// It may be used by one goroutine at a time, until the callback returns.
type Modifier struct {
	stream grpc.ClientStreamingClient[pfspb.ModifyFileRequest, emptypb.Empty]
	buf    []byte
	err    error
}

// ModifyFile changes files of a commit by the operations that fn does: all of
// them take effect together when fn has returned nil, none of them if it returns
// an error, which is then what ModifyFile returns. If commit is a branch
// whose head is finished (or that is missing), the changes are one finished
// commit on it; if it is open, they are added to it.
func (c *Client) ModifyFile(ctx context.Context, commit *pfspb.Commit, fn func(*Modifier) error, opts ...grpc.CallOption) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // the server sees a call without an end, and drops it
	s, err := c.PFS.ModifyFile(ctx, opts...)
	if err != nil {
		return err
	}
	m := &Modifier{stream: s}
	m.send(&pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: commit}})
	if err := fn(m); err != nil {
		return err
	}
	if m.err != nil {
		return m.err
	}
	_, err = s.CloseAndRecv()
	return err
}

func (m *Modifier) send(req *pfspb.ModifyFileRequest) error {
	if m.err != nil {
		return m.err
	}
	err := m.stream.Send(req)
	if errors.Is(err, io.EOF) { // the server has ended the call; ask why
		if err = m.stream.RecvMsg(new(emptypb.Empty)); err == nil {
			err = errors.New("modify file: the server ended the call early")
		}
	}
	m.err = err
	return err
}

// PutFile writes what r gives to path, in place of what is there unless Append
// is given. If r fails, so does the whole call.
func (m *Modifier) PutFile(path string, r io.Reader, opts ...FileOption) error {
	if m.err != nil {
		return m.err
	}
	o := fileOptionsOf(opts)
	if !o.appending {
		if err := m.DeleteFile(path, opts...); err != nil {
			return err
		}
	}
	if m.buf == nil {
		m.buf = make([]byte, MaxPayload)
	}
	for sent := false; ; sent = true {
		n, err := io.ReadFull(r, m.buf)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			m.err = fmt.Errorf("put file %q: %w", path, err)
			return m.err
		}
		if n == 0 && sent {
			return nil
		}
		add := &pfspb.AddFile{Path: path, Datum: o.datum}
		if n > 0 { // no source at all makes an empty file
			// Send has encoded the message when it returns: the buffer is free again.
			add.Source = &pfspb.AddFile_Raw{Raw: wrapperspb.Bytes(m.buf[:n])}
		}
		if err := m.send(&pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: add}}); err != nil || last {
			return err
		}
	}
}

// PutURL makes the server fetch url to path, in place of what is there unless
// Append is given. http, https and, where the server has them, object stores.
func (m *Modifier) PutURL(path, url string, opts ...FileOption) error {
	o := fileOptionsOf(opts)
	if !o.appending {
		if err := m.DeleteFile(path, opts...); err != nil {
			return err
		}
	}
	return m.send(&pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: &pfspb.AddFile{
		Path: path, Datum: o.datum,
		Source: &pfspb.AddFile_Url{Url: &pfspb.AddFile_URLSource{URL: url, Recursive: o.recursive, Concurrency: o.concurrency}},
	}}})
}

// DeleteFile deletes a file, or everything below a directory if path ends in
// "/". A missing file is not an error.
func (m *Modifier) DeleteFile(path string, opts ...FileOption) error {
	o := fileOptionsOf(opts)
	return m.send(&pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_DeleteFile{DeleteFile: &pfspb.DeleteFile{Path: path, Datum: o.datum}}})
}

// CopyFile copies a file or directory of any commit to path, without moving
// bytes, in place of what is there unless Append is given.
func (m *Modifier) CopyFile(path string, src *pfspb.File, opts ...FileOption) error {
	o := fileOptionsOf(opts)
	return m.send(&pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_CopyFile{CopyFile: &pfspb.CopyFile{Dst: path, Datum: o.datum, Src: src, Append: o.appending}}})
}

// modifyWith is ModifyFile with those options that belong to the call.
func (c *Client) modifyWith(ctx context.Context, commit *pfspb.Commit, opts []FileOption, fn func(*Modifier) error) error {
	o := fileOptionsOf(opts)
	return c.ModifyFile(o.keyed(ctx), commit, fn, o.callOptions...)
}

// PutFile is one PutFile in a call of its own: on a branch without an open
// commit it makes one commit.
func (c *Client) PutFile(ctx context.Context, commit *pfspb.Commit, path string, r io.Reader, opts ...FileOption) error {
	return c.modifyWith(ctx, commit, opts, func(m *Modifier) error { return m.PutFile(path, r, opts...) })
}

// PutURL is one PutURL in a call of its own.
func (c *Client) PutURL(ctx context.Context, commit *pfspb.Commit, path, url string, opts ...FileOption) error {
	return c.modifyWith(ctx, commit, opts, func(m *Modifier) error { return m.PutURL(path, url, opts...) })
}

// DeleteFile is one DeleteFile in a call of its own.
func (c *Client) DeleteFile(ctx context.Context, commit *pfspb.Commit, path string, opts ...FileOption) error {
	return c.modifyWith(ctx, commit, opts, func(m *Modifier) error { return m.DeleteFile(path, opts...) })
}

// CopyFile is one CopyFile in a call of its own.
func (c *Client) CopyFile(ctx context.Context, commit *pfspb.Commit, path string, src *pfspb.File, opts ...FileOption) error {
	return c.modifyWith(ctx, commit, opts, func(m *Modifier) error { return m.CopyFile(path, src, opts...) })
}
