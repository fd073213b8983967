package pfs

import (
	"context"
	"path"

	"github.com/minipachd/minipachd/pfs/fileset"
	"github.com/minipachd/minipachd/pfs/remote"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// addURL appends what a URL names to a file, or with recursive every object below
// it to the file of that name below a directory.
func (s *Service) addURL(ctx context.Context, w *fileset.Writer, dst, datum string, src *pfspb.AddFile_URLSource) error {
	if err := checkPath(dst); err != nil {
		return err
	}
	if !src.GetRecursive() { // before anything is fetched
		if _, err := writePath(dst); err != nil {
			return err
		}
	}
	if err := s.room(); err != nil {
		return err
	}
	rel, at := "", "" // of the object that is being fetched; at is empty before the first
	return s.remote.Fetch(ctx, remote.Source{
		URL: src.GetURL(), Recursive: src.GetRecursive(), Concurrency: src.GetConcurrency(),
	}, func(name string, data []byte) error {
		if at == "" || name != rel {
			p, err := fetchedPath(dst, name)
			if err != nil {
				return err
			}
			rel, at = name, p
		}
		return w.Append(at, datum, data)
	})
}

// fetchedPath is where an object goes whose name below the fetched URL is rel.
func fetchedPath(dst, rel string) (string, error) {
	if rel == "" {
		return writePath(dst)
	}
	// Two names that mean one path would become one file.
	if path.Clean(rel) != rel {
		return "", &BadPathError{Path: rel, Why: "the object's name is no clean path"}
	}
	return writePath(cleanDir(dst) + rel)
}
