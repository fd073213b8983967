package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// TestSecretKey_FileThatEverybodyMayRead is told in the log, and used all the same.
func TestSecretKey_FileThatEverybodyMayRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(strings.Repeat("ab", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	for mode, warnings := range map[os.FileMode]int{0o600: 0, 0o640: 0, 0o644: 1} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		core, logged := observer.New(zap.WarnLevel)
		s := &Server{log: zap.New(core), cfg: Config{SecretKeyFile: path}}
		if _, err := s.secretKey(); err != nil || logged.Len() != warnings {
			t.Errorf("mode %v: %v, %v", mode, err, logged.All())
		}
	}
}
