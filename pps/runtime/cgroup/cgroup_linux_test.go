package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse_FindsTheGroupsOfThisProcess(t *testing.T) {
	unified := t.TempDir()
	if err := os.MkdirAll(filepath.Join(unified, "system.slice/pachd.service"), 0o755); err != nil {
		t.Fatal(err)
	}
	for dir, list := range map[string]string{"system.slice/pachd.service": "cpu io memory pids\n", "": "hugetlb\n"} {
		if err := os.WriteFile(filepath.Join(unified, dir, "cgroup.controllers"), []byte(list), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	own := filepath.Join(unified, "system.slice/pachd.service")
	for _, c := range []struct {
		name, mounts, groups string
		want                 []hierarchy
	}{
		{
			"version 2",
			"30 1 0:26 / " + unified + " rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
			"0::/system.slice/pachd.service\n",
			[]hierarchy{{v2: true, home: own, base: own, controllers: []string{"cpu", "memory"}}},
		},
		{
			"version 1, a hierarchy each",
			"1 1 0:1 / / rw - ext4 /dev/vda rw\n" +
				"32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n" +
				"35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
				"36 31 0:33 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n",
			"6:devices:/\n4:memory:/a/b\n1:cpu:/\n0::/\n",
			[]hierarchy{
				{home: "/sys/fs/cgroup/cpu", base: "/sys/fs/cgroup/cpu", controllers: []string{"cpu"}},
				{home: "/sys/fs/cgroup/memory/a/b", base: "/sys/fs/cgroup/memory/a/b", controllers: []string{"memory"}},
			},
		},
		{
			"version 1 in a container, which sees its own part, under a name with a space",
			`32 31 0:29 /docker/1 /sys/fs/cgroup/cpu\040x rw - cgroup cgroup rw,cpu,cpuacct` + "\n",
			"3:cpu,cpuacct:/docker/1/sub\n",
			[]hierarchy{{home: "/sys/fs/cgroup/cpu x/sub", base: "/sys/fs/cgroup/cpu x/sub", controllers: []string{"cpu"}}},
		},
		{
			"the process is outside of what is mounted",
			"32 31 0:29 /docker/1 /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n",
			"3:cpu:/docker/2\n",
			nil,
		},
		{
			"both, and version 2 has nothing for us",
			"30 1 0:26 / " + unified + " rw - cgroup2 cgroup2 rw\n" +
				"35 31 0:32 / /m rw - cgroup cgroup rw,memory\n",
			"4:memory:/\n0::/\n",
			[]hierarchy{{home: "/m", base: "/m", controllers: []string{"memory"}}},
		},
		{"neither", "garbage\n", "garbage\n", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := parse(c.mounts, c.groups)
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(hierarchy{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What is written where, for both versions; the control files are plain ones here.
func TestLimit_Files(t *testing.T) {
	limits := Limits{CPU: 0.5, CPUShare: 0.25, Memory: 64 << 20, MemoryLow: 32 << 20}
	for _, c := range []struct {
		name string
		dir  Dir
		want map[string]string
	}{
		{"version 2", Dir{V2: true, Controllers: []string{cpu, memory}}, map[string]string{
			"cpu.max": "50000 100000", "cpu.weight": "10", "memory.max": "67108864", "memory.oom.group": "1",
			"memory.swap.max": "0", "memory.low": "33554432",
		}},
		{"version 1", Dir{Controllers: []string{cpu, memory}}, map[string]string{
			"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000", "cpu.shares": "256",
			"memory.limit_in_bytes": "67108864", "memory.memsw.limit_in_bytes": "67108864", "memory.soft_limit_in_bytes": "33554432",
		}},
	} {
		dir := t.TempDir()
		for file := range c.want {
			if err := os.WriteFile(filepath.Join(dir, file), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		c.dir.Path = dir
		if err := c.dir.limit(limits); err != nil {
			t.Error(c.name, err)
		}
		got := map[string]string{}
		for file := range c.want {
			data, _ := os.ReadFile(filepath.Join(dir, file))
			got[file] = string(data)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		c.dir.Path = t.TempDir()
		if err := c.dir.limit(limits); err == nil {
			t.Errorf("%s: limits that cannot be set are no error", c.name)
		}
	}
}

func TestOutOfMemory_BothVersions(t *testing.T) {
	for file, text := range map[string]string{
		"memory.events":      "low 0\noom 3\noom_kill %\noom_group_kill 0\n",
		"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill %\n",
	} {
		for n, want := range map[string]bool{"0": false, "2": true} {
			dir := t.TempDir()
			data := []byte(strings.ReplaceAll(text, "%", n))
			if err := os.WriteFile(filepath.Join(dir, file), data, 0o644); err != nil {
				t.Fatal(err)
			}
			if got := (&Group{Dirs: []Dir{{Path: dir, V2: file == "memory.events"}}}).OutOfMemory(); got != want {
				t.Errorf("%s with %s: %v", file, n, got)
			}
		}
	}
	if (&Group{}).OutOfMemory() {
		t.Error("without a memory controller")
	}
}

func TestTree_ZeroIsOfNoUse(t *testing.T) {
	var tree Tree
	m, c := tree.Without()
	if m == nil || c == nil || tree.Usable() {
		t.Error(m, c, tree.Usable())
	}
	if g := tree.Group("w", Limits{}); len(g.Dirs) != 0 {
		t.Error(g)
	}
}
