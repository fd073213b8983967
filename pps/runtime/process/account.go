//go:build unix

package process

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// findAccount resolves transform.user. Nil means: as the daemon itself.
func findAccount(text string) (*account, error) {
	if text == "" {
		return nil, nil
	}
	who, group, hasGroup := strings.Cut(text, ":")
	a := &account{name: who}
	u, err := user.Lookup(who)
	if err != nil {
		u, err = user.LookupId(who)
	}
	switch {
	case err == nil:
		if a.UID, err = number(u.Uid); err != nil {
			return nil, err
		}
		if a.GID, err = number(u.Gid); err != nil {
			return nil, err
		}
		a.home = u.HomeDir
		ids, _ := u.GroupIds()
		for _, id := range ids {
			if gid, err := number(id); err == nil {
				a.Groups = append(a.Groups, gid)
			}
		}
	case hasGroup:
		if a.UID, err = number(who); err != nil {
			return nil, fmt.Errorf("user %q: there is no such user on this machine", text)
		}
	default:
		return nil, fmt.Errorf("user %q: there is no such user on this machine (a bare uid needs a group: \"uid:gid\")", text)
	}
	if hasGroup {
		g, err := user.LookupGroup(group)
		if err != nil {
			g = &user.Group{Gid: group}
		}
		if a.GID, err = number(g.Gid); err != nil {
			return nil, fmt.Errorf("user %q: there is no group %q on this machine", text, group)
		}
		a.Groups = nil
	}
	if int(a.UID) == os.Geteuid() && (!hasGroup || int(a.GID) == os.Getegid()) {
		return nil, nil
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("user %q: only a pachd that runs as root can start a worker as another user", text)
	}
	return a, nil
}

func number(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	return uint32(n), err
}

// mayEnter reports, with the directory that bars the way, whether the account
// can reach dir.
func (a *account) mayEnter(dir string) error {
	for at := dir; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && !a.mayExecute(st.Uid, st.Gid, info.Mode()) {
			return fmt.Errorf("user %q cannot enter %s (%s, needed for %s)", a.name, at, info.Mode(), dir)
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

// own gives the account a file or a pipe, but no device.
func (a *account) own(f *os.File) error {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeDevice != 0 {
		return err
	}
	return f.Chown(int(a.UID), int(a.GID))
}

func (a *account) mayExecute(uid, gid uint32, mode os.FileMode) bool {
	switch {
	case a.UID == 0:
		return true
	case a.UID == uid:
		return mode&0o100 != 0
	case a.GID == gid || slices.Contains(a.Groups, gid):
		return mode&0o010 != 0
	}
	return mode&0o001 != 0
}
