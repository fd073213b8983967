package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// testify locks a file of its own in dir, which stays locked as long as the process
// lives and keeps the file open, and adds to the file doubles a line for each other
// live process of the same slot: the slot, the two scratch directories, the two
// processes, the time. Of two that start together at least one sees the other.
func testify(dir string) (*os.File, error) {
	slot := os.Getenv("PPS_PIPELINE_NAME") + "-" + os.Getenv("PPS_WORKER_ORDINAL")
	owner := filepath.Dir(os.Getenv("TMPDIR")) // below the data directory
	own := filepath.Join(dir, slot+"@"+name())
	f, err := os.OpenFile(own+".new", os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprint(f, owner); err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, err
	}
	if err := os.Rename(own+".new", own); err != nil {
		return nil, err
	}
	others, err := filepath.Glob(filepath.Join(dir, slot+"@*"))
	if err != nil {
		return nil, err
	}
	for _, other := range others {
		if other == own || strings.HasSuffix(other, ".new") {
			continue
		}
		if err := look(dir, slot, owner, other); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func look(dir, slot, owner, other string) error {
	f, err := os.Open(other)
	if errors.Is(err, os.ErrNotExist) {
		return nil // another that looks has found it dead
	}
	if err != nil {
		return err
	}
	defer f.Close()
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if err == nil {
		if err := os.Remove(other); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	if !errors.Is(err, syscall.EWOULDBLOCK) {
		return err
	}
	theirs, err := os.ReadFile(other)
	if err != nil {
		return err
	}
	doubles, err := os.OpenFile(filepath.Join(dir, "doubles"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer doubles.Close()
	_, who, _ := strings.Cut(filepath.Base(other), "@")
	_, err = fmt.Fprintln(doubles, slot, owner, string(theirs), name(), who, time.Now().UnixNano())
	return err
}
