package frame

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// received is the other end of a stream.
type received struct {
	codec encoding.CodecV2
	infos []*pfspb.FileInfo
}

func (r *received) SendMsg(m any) error {
	data, err := r.codec.Marshal(m)
	if err != nil {
		return err
	}
	defer data.Free()
	info := &pfspb.FileInfo{}
	if err := proto.Unmarshal(data.Materialize(), info); err != nil {
		return err
	}
	r.infos = append(r.infos, info)
	return nil
}

func TestListing_SendsFileInfos(t *testing.T) {
	text := rapid.OneOf(rapid.Just(""), rapid.StringN(0, 40, -1), rapid.Just(strings.Repeat("päth/", 8000)))
	rapid.Check(t, func(t *rapid.T) {
		commit := &pfspb.Commit{Id: rapid.StringMatching(`[0-9a-f]{0,32}`).Draw(t, "id")}
		if rapid.Bool().Draw(t, "has repo") {
			commit.Repo = &pfspb.Repo{Name: "data", Type: "user", Project: &pfspb.Project{Name: "default"}}
		}
		of := &pfspb.FileInfo{File: &pfspb.File{Commit: commit}}
		if rapid.Bool().Draw(t, "has time") {
			of.Committed = timestamppb.New(time.Unix(1_800_000_000, 7))
		}
		codecs := []encoding.CodecV2{Codec(), encoding.GetCodecV2(grpcproto.Name)}
		r := &received{codec: rapid.SampledFrom(codecs).Draw(t, "codec")}
		l, err := NewListing(r, of)
		if err != nil {
			t.Fatal(err)
		}
		var want []*pfspb.FileInfo
		for range rapid.IntRange(1, 20).Draw(t, "files") {
			info := &pfspb.FileInfo{
				File:      &pfspb.File{Commit: commit, Path: text.Draw(t, "path"), Datum: text.Draw(t, "datum")},
				FileType:  rapid.SampledFrom([]pfspb.FileType{pfspb.FileType_RESERVED, pfspb.FileType_FILE, pfspb.FileType_DIR}).Draw(t, "type"),
				Committed: of.Committed,
				SizeBytes: rapid.Int64().Draw(t, "size"),
				Hash:      rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "hash"),
			}
			want = append(want, info)
			if err := l.Send(info.File.Path, info.File.Datum, info.FileType, info.SizeBytes, info.Hash); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(want, r.infos, protocmp.Transform(), protocmp.IgnoreEmptyMessages()); diff != "" {
			t.Errorf("messages differ (-want +got):\n%s", diff)
		}
	})
}

func TestListing_RefusesWhatIsNoText(t *testing.T) {
	r := &received{codec: Codec()}
	l, err := NewListing(r, &pfspb.FileInfo{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range [][2]string{{"/a\xff", ""}, {"/a", "d\xff"}} {
		if err := l.Send(name[0], name[1], pfspb.FileType_FILE, 1, nil); err == nil {
			t.Errorf("path %q and datum %q were sent", name[0], name[1])
		}
	}
	if len(r.infos) > 0 {
		t.Errorf("%d messages were sent", len(r.infos))
	}
}

// BenchmarkListing encodes what a listing sends, as messages and by a Listing.
func BenchmarkListing(b *testing.B) {
	commit := &pfspb.Commit{Id: strings.Repeat("0a", 16), Repo: &pfspb.Repo{Name: "data", Type: "user", Project: &pfspb.Project{Name: "default"}}}
	of := &pfspb.FileInfo{File: &pfspb.File{Commit: commit}, Committed: timestamppb.New(time.Unix(1_800_000_000, 7))}
	hash := make([]byte, 32)
	b.Run("messages", func(b *testing.B) {
		b.ReportAllocs()
		s := sink{Codec()}
		for b.Loop() {
			info := &pfspb.FileInfo{File: &pfspb.File{Commit: commit, Path: "/dir/0000001"}, FileType: pfspb.FileType_FILE, Committed: of.Committed, SizeBytes: 1024, Hash: hash}
			if err := s.SendMsg(info); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("listing", func(b *testing.B) {
		b.ReportAllocs()
		l, err := NewListing(sink{Codec()}, of)
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if err := l.Send("/dir/0000001", "", pfspb.FileType_FILE, 1024, hash); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// sink encodes messages for nobody.
type sink struct{ codec encoding.CodecV2 }

func (s sink) SendMsg(m any) error {
	data, err := s.codec.Marshal(m)
	data.Free()
	return err
}
