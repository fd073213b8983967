//go:build unix

package process

import (
	"context"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"
)

// diskLook is the time between two looks at the scratch directory of a worker; more if
// looking takes long.
const diskLook = time.Second

// overfull closes the channel that it returns once the files of dir take more than limit
// bytes of the disk. It looks until ctx ends.
func overfull(ctx context.Context, dir string, limit int64) <-chan struct{} {
	full := make(chan struct{})
	go func() {
		for pause := diskLook; ; {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return
			}
			began := time.Now()
			if diskUse(ctx, dir) > limit {
				close(full)
				return
			}
			pause = max(diskLook, 20*time.Since(began))
		}
	}()
	return full
}

// diskUse is what the files of a directory take of the disk, in bytes; a file with
// several names counts once, one without a name not at all.
func diskUse(ctx context.Context, dir string) (bytes int64) {
	linked := map[[2]any]bool{} // device and number, whose types differ between systems
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return nil // it has vanished, or may not be looked into
		}
		info, err := e.Info()
		if err != nil {
			return nil
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if st.Nlink > 1 && !e.IsDir() {
			f := [2]any{st.Dev, st.Ino}
			if linked[f] {
				return nil
			}
			linked[f] = true
		}
		bytes += st.Blocks * 512
		return nil
	})
	return bytes
}
