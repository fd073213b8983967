package main

import (
	"context"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/minipachd/minipachd/store"
)

// contents is what an etcd database holds.
type contents struct {
	InUse int64  `json:"in_use_bytes"` // of the file, without free pages and old revisions
	Kinds []kind `json:"kinds"`
}

// kind are the keys that begin with one of the prefixes of docs/keys.md.
type kind struct {
	Prefix string `json:"prefix"`
	Keys   int    `json:"keys"`
	Bytes  int64  `json:"bytes"` // of keys and values
}

// weigh opens the etcd of a daemon that has stopped and says what is in it.
func weigh(ctx context.Context, dir string) (*contents, error) {
	s, err := store.Open(ctx, store.Config{Dir: dir})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	sums := map[string]*kind{}
	c := &contents{}
	end := clientv3.GetPrefixRangeEnd(s.Prefix())
	for from := s.Prefix(); ; {
		// Without a snapshot: nobody writes.
		page, err := s.Page(ctx, from, end, 10_000)
		if err != nil {
			return nil, fmt.Errorf("read etcd: %w", err)
		}
		for _, kv := range page.KVs {
			from = string(kv.Key) + "\x00"
			parts := strings.SplitN(strings.TrimPrefix(string(kv.Key), s.Prefix()), "/", 3)
			prefix := strings.Join(parts[:min(2, len(parts))], "/") + "/"
			k := sums[prefix]
			if k == nil {
				k = &kind{Prefix: prefix}
				sums[prefix] = k
			}
			k.Keys++
			k.Bytes += int64(len(kv.Key) + len(kv.Value))
		}
		if page.More {
			continue
		}
		for _, k := range sums {
			c.Kinds = append(c.Kinds, *k)
		}
		if _, err := s.Client().Compact(ctx, page.Revision, clientv3.WithCompactPhysical()); err != nil {
			return nil, fmt.Errorf("compact etcd: %w", err)
		}
		status, err := s.Client().Status(ctx, "")
		if err != nil {
			return nil, fmt.Errorf("size of etcd: %w", err)
		}
		c.InUse = status.DbSizeInUse
		return c, nil
	}
}
