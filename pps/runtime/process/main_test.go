//go:build unix

package process

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/minipachd/minipachd/pps/runtime"
)

// TestMain lets the test binary be keeper, worker and daemon as well.
func TestMain(m *testing.M) {
	MaybeInit()
	if mode := os.Getenv("TEST_MODE"); mode != "" {
		play(mode)
	}
	goleak.VerifyTestMain(m)
}

// play is a worker's program. Each prints a line when it is ready.
func play(mode string) {
	switch mode {
	case "env":
		dir, _ := os.Getwd()
		json.NewEncoder(os.Stdout).Encode(map[string]any{
			"env": os.Environ(), "dir": dir, "uid": os.Getuid(), "args": os.Args,
		})
	case "cat":
		io.Copy(os.Stdout, os.Stdin)
	case "exit":
		fmt.Fprintln(os.Stderr, strings.Repeat("x", runtime.TailBytes), "last words")
		code, _ := strconv.Atoi(os.Getenv("TEST_CODE"))
		os.Exit(code)
	case "answer": // a line for every SIGUSR1, exit status 3 on SIGTERM
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGUSR1, syscall.SIGTERM)
		fmt.Println("ready")
		for sig := range signals {
			fmt.Println(sig)
			if sig == syscall.SIGTERM {
				os.Exit(3)
			}
		}
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready", os.Getpid())
		select {}
	case "tree": // child in the group, child in a session of its own, and their parent gone
		fmt.Println(child("answer", false), child("stubborn", true), child("orphaner", false), os.Getpid())
		select {}
	case "beheaded": // with a child in a session of its own whose first thread has ended
		if os.Getenv("TEST_UNMARKED") != "" {
			os.Unsetenv(ownerEnv)
		}
		fmt.Println(child("headless", true))
		select {}
	case "orphaner": // leaves a grandchild in a session of its own, and ends
		fmt.Println(child("stubborn", true))
	case "gorun": // like `go run`: dies of SIGTERM at once, the real program is its child
		child("late", false)
		fmt.Println("ready")
		select {}
	case "late":
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM)
		fmt.Println("ready")
		<-signals
		time.Sleep(100 * time.Millisecond) // has something to finish
		fmt.Fprintln(os.Stderr, "finished in time")
	case "eat": // takes more and more memory
		fmt.Println("ready")
		var held [][]byte
		for range 64 {
			b := make([]byte, 16<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			held = append(held, b)
		}
		goruntime.KeepAlive(held)
		fmt.Println("survived")
	case "feeder": // whose child takes more and more memory
		cmd := exec.Command(self())
		cmd.Env = append(os.Environ(), "TEST_MODE=eat")
		cmd.Stdout = os.Stdout
		if cmd.Run() != nil {
			os.Exit(7)
		}
	case "spin":
		fmt.Println("ready")
		for os.Getpid() != 0 {
		}
	case "hoard": // has files, and more of them at SIGUSR1
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGUSR1)
		file := func(name string) (path string) {
			path = filepath.Join(os.TempDir(), name)
			if err := os.WriteFile(path, make([]byte, 6<<20), 0o600); err != nil {
				panic(err)
			}
			return path
		}
		os.Link(file("kept"), filepath.Join(os.TempDir(), "again"))
		os.Remove(file("deleted"))
		fmt.Println("ready")
		<-signals
		file("more")
		select {}
	case "escape": // a child that nothing tells as ours: other session, no environment
		cmd := exec.Command("sh", "-c", "echo; exec sleep 1000")
		cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		out, _ := cmd.StdoutPipe()
		if cmd.Start() != nil {
			os.Exit(1)
		}
		out.Read(make([]byte, 1))
		fmt.Println(cmd.Process.Pid)
		select {}
	case "umask":
		os.WriteFile(os.Getenv("TEST_FILE"), nil, 0o666)
	case "daemon": // a pachd whose worker is a tree
		spec := runtime.Spec{
			WorkerID: "tree", Incarnation: "1", Cmd: []string{self()},
			Env: []string{"TEST_MODE=tree"}, Stdout: os.Stdout, Stderr: os.Stderr,
		}
		if program := os.Getenv("TEST_PROGRAM"); program != "" {
			spec.Cmd, spec.Env = []string{"go", "run", program}, nil
		}
		r, err := New(Config{DataDir: os.Getenv("TEST_DATA")})
		if err == nil {
			_, err = r.Start(context.Background(), spec)
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		select {}
	}
	os.Exit(0)
}

// child starts this binary in a mode and returns what it said first.
func child(mode string, session bool) string {
	cmd := exec.Command(self())
	cmd.Env = append(os.Environ(), "TEST_MODE="+mode)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: session}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		panic(err)
	}
	buf := make([]byte, 100)
	n, _ := out.Read(buf)
	if mode == "orphaner" {
		cmd.Wait()
		return string(buf[:n-1])
	}
	return fmt.Sprint(cmd.Process.Pid)
}

func self() string {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return exe
}
