package pfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// op is one operation of a stream.
type op = *pfspb.ModifyFileRequest

func add(path, text string) op { return addBy(path, "", text) }

func addBy(path, datum, text string) op {
	a := &pfspb.AddFile{Path: path, Datum: datum, Source: &pfspb.AddFile_Raw{Raw: wrapperspb.Bytes([]byte(text))}}
	return &pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: a}}
}

func del(path string) op {
	return &pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_DeleteFile{DeleteFile: &pfspb.DeleteFile{Path: path}}}
}

func copyOf(dst string, src *pfspb.Commit, path string, appending bool) op {
	return &pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_CopyFile{CopyFile: &pfspb.CopyFile{
		Dst: dst, Src: &pfspb.File{Commit: src, Path: path}, Append: appending,
	}}}
}

func addURL(path string, src *pfspb.AddFile_URLSource) op {
	return &pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: &pfspb.AddFile{Path: path, Source: &pfspb.AddFile_Url{Url: src}}}}
}

// send sends operations on a stream and half-closes it.
func send[T any](s grpc.ClientStreamingClient[pfspb.ModifyFileRequest, T], err error, ops []op) (*T, error) {
	if err != nil {
		return nil, err
	}
	for _, o := range ops {
		if err := s.Send(o); err != nil {
			break // CloseAndRecv says why
		}
	}
	return s.CloseAndRecv()
}

// modify changes files of a commit in one stream.
func (m *metaServer) modify(c *pfspb.Commit, ops ...op) error {
	set := &pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: c}}
	s, err := m.ModifyFile(limit(m.t))
	_, err = send(s, err, append([]op{set}, ops...))
	return err
}

// apply is modify that must succeed, on "repo@branch".
func (m *metaServer) apply(name string, ops ...op) {
	m.t.Helper()
	m.must(nil, m.modify(commitOf(name), ops...))
}

// tree gives the files of a commit below a path: "/path=content" in order, and
// directories as "/path/".
func (m *metaServer) tree(c *pfspb.Commit, path string) (string, error) {
	msgs, err := all(m.GetFileTAR(limit(m.t), &pfspb.GetFileRequest{File: &pfspb.File{Commit: c, Path: path}}))
	if err != nil {
		return "", err
	}
	var raw bytes.Buffer
	for _, msg := range msgs {
		raw.Write(msg.Value)
	}
	var lines []string
	for r := tar.NewReader(&raw); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return strings.Join(lines, " "), nil
		}
		if err != nil {
			return "", err
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return "", err
		}
		line := h.Name
		if h.Typeflag == tar.TypeReg {
			line += "=" + string(b)
		}
		lines = append(lines, line)
	}
}

func (m *metaServer) wantTree(c *pfspb.Commit, want string) {
	m.t.Helper()
	got, err := m.tree(c, "/")
	if err != nil || got != want {
		m.t.Errorf("%s has\n     %s, %v\nwant %s", CommitName(c), got, err, want)
	}
}

func (m *metaServer) content(c *pfspb.Commit, path string) string {
	m.t.Helper()
	msgs, err := all(m.GetFile(limit(m.t), &pfspb.GetFileRequest{File: &pfspb.File{Commit: c, Path: path}}))
	m.must(nil, err)
	var b []byte
	for _, msg := range msgs {
		b = append(b, msg.Value...)
	}
	return string(b)
}

func paths(infos []*pfspb.FileInfo) string {
	var got []string
	for _, i := range infos {
		got = append(got, i.File.Path)
	}
	return strings.Join(got, " ")
}

func fileOf(c *pfspb.Commit, path string) *pfspb.File { return &pfspb.File{Commit: c, Path: path} }
