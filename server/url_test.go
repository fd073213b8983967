package server_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// TestURLs_FollowTheFlags puts files from URLs of this machine, which is refused
// unless the flags allow it.
func TestURLs_FollowTheFlags(t *testing.T) {
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "web") }))
	defer site.Close()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx := within(t)
	for _, tc := range []struct {
		name string
		args []string
		want map[string]string // content, or what the error says
	}{
		{"default", nil, map[string]string{site.URL: "127.0.0.1 is not allowed", "file://" + dir + "/f": "file URLs are not allowed"}},
		{"allowed", []string{"--url-allow-private", "--url-file-root", dir, "--url-sources", "http"}, map[string]string{
			site.URL: "=web", "file://" + dir + "/f": "=disk", "s3://b/k": "scheme s3 is not allowed",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := startPachd(t, t.TempDir(), tc.args...)
			files, _, _ := dial(t, p.addr)
			if _, err := files.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo("r")}); err != nil {
				t.Fatal(err)
			}
			for url, want := range tc.want {
				s, err := files.ModifyFile(ctx)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range []*pfspb.ModifyFileRequest{
					{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: &pfspb.Commit{Branch: branch("r")}}},
					{Body: &pfspb.ModifyFileRequest_DeleteFile{DeleteFile: &pfspb.DeleteFile{Path: "/x"}}},
					{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: &pfspb.AddFile{Path: "/x", Source: &pfspb.AddFile_Url{Url: &pfspb.AddFile_URLSource{URL: url}}}}},
				} {
					_ = s.Send(m) // CloseAndRecv has the error
				}
				_, err = s.CloseAndRecv()
				text, ok := strings.CutPrefix(want, "=")
				if !ok {
					if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), want) {
						t.Errorf("%s: %v, want PermissionDenied with %q", url, err, want)
					}
					continue
				}
				if err != nil {
					t.Errorf("%s: %v", url, err)
					continue
				}
				r, err := files.GetFile(ctx, &pfspb.GetFileRequest{File: &pfspb.File{Commit: &pfspb.Commit{Branch: branch("r")}, Path: "/x"}})
				if err != nil {
					t.Fatal(err)
				}
				if m, err := r.Recv(); err != nil || string(m.Value) != text {
					t.Errorf("%s: got %q, %v", url, m.GetValue(), err)
				}
			}
			if err := p.stop(); err != nil {
				t.Error(err)
			}
		})
	}
}
