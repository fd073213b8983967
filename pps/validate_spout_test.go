package pps

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestValidate_KeepingAlive(t *testing.T) {
	for spout, want := range map[string]string{
		`{}`: "",
		`{"restart": {"initial_backoff": "2s", "maxBackoff": "2s", "reset_after": "60s"}, "grace_period": "0s"}`: "",
		`{"restart": {"factor": 1, "jitter": 0}}`: "",
		`{"restart": {"factor": 0}}`:              "spout.restart.factor must be between 1 and 100, not 0",
		`{"restart": {"factor": "NaN"}}`:          "spout.restart.factor must be between 1 and 100, not NaN",
		`{"restart": {"jitter": 0.6}}`:            "spout.restart.jitter must be between 0 and 0.5, not 0.6",
		`{"liveness": {"tcp": {"port": 80}, "interval": "1s", "timeout": "0.5s", "failure_threshold": 1}}`: "",
		`{"liveness": {"http": {"port": 80}}}`:                                          "",
		`{"liveness": {"http": {"port": 80, "path": "/a?b=c"}, "initial_delay": "0s"}}`: "",
		`{"liveness": {"exec": {"command": ["true"]}}}`:                                 "",
		`{"liveness": {"commit_every": "300s", "interval": "1s"}}`:                      "",
		`{"restart": {"initial_backoff": "0s"}}`:                                        "spout.restart.initial_backoff must be between 10ms and 24h0m0s, not 0s",
		`{"restart": {"max_backoff": "-1s"}}`:                                           "spout.restart.max_backoff must be between 10ms and 24h0m0s, not -1s",
		`{"restart": {"reset_after": "90000s"}}`:                                        "spout.restart.reset_after must be between 10ms and 24h0m0s, not 25h0m0s",
		`{"restart": {"initial_backoff": "3s", "max_backoff": "2s"}}`:                   "spout.restart.max_backoff (2s) must not be shorter than spout.restart.initial_backoff (3s)",
		`{"grace_period": "7200s"}`:                                                     "spout.grace_period must be between 0s and 1h0m0s, not 2h0m0s",
		`{"liveness": {}}`:                                                              "spout.liveness must have one of tcp, http, exec, commit_every",
		`{"liveness": {"tcp": {}}}`:                                                     "spout.liveness.tcp.port must be between 1 and 65535; it may be left out only with a spout.service, whose port is checked then",
		`{"service": {"external_port": 80}, "liveness": {"tcp": {}}}`:                   "",
		`{"service": {"external_port": 80}, "liveness": {"http": {"path": "/"}}}`:       "",
		`{"service": {"external_port": 80}, "liveness": {"tcp": {"port": -1}}}`:         "spout.liveness.tcp.port must be between 1 and 65535, not -1",
		`{"liveness": {"http": {"port": 70000}}}`:                                       "spout.liveness.http.port must be between 1 and 65535, not 70000",
		`{"liveness": {"http": {"port": 80, "path": "health"}}}`:                        `spout.liveness.http.path must begin with / and hold neither blanks nor control characters, not "health"`,
		`{"liveness": {"exec": {"command": [""]}}}`:                                     "spout.liveness.exec.command must name a program",
		`{"liveness": {"commit_every": "0s"}}`:                                          "spout.liveness.commit_every must be between 100ms and 720h0m0s, not 0s",
		`{"liveness": {"commit_every": "60s", "failure_threshold": 2}}`:                 "spout.liveness.timeout and failure_threshold do not go with commit_every: its duration is all the patience there is",
		`{"liveness": {"tcp": {"port": 1}, "interval": "0.001s"}}`:                      "spout.liveness.interval must be between 100ms and 24h0m0s, not 1ms",
		`{"liveness": {"tcp": {"port": 1}, "failure_threshold": -1}}`:                   "spout.liveness.failure_threshold must be between 1 and 1000, or left out, not -1",
		`{"commit": {"interval": "10s", "bytes": "1048576", "files": 1000}}`:            "",
		`{"commit": {"files": 1}, "retention": {"commits": 1}}`:                         "",
		`{"retention": {"commits": 100, "age": "86400s"}}`:                              "",
		`{"commit": {}}`:                                          "spout.commit must have at least one of interval, bytes, files",
		`{"commit": {"interval": "0s"}}`:                          "spout.commit.interval must be between 100ms and 24h0m0s, not 0s",
		`{"commit": {"interval": "90000s", "files": 1}}`:          "spout.commit.interval must be between 100ms and 24h0m0s, not 25h0m0s",
		`{"commit": {"interval": "10", "files": 1}}`:              "could not make effective spec: ",
		`{"commit": {"bytes": -1}}`:                               "spout.commit.bytes must be 1 or more, or left out, not -1",
		`{"commit": {"files": -5, "interval": "1s"}}`:             "spout.commit.files must be 1 or more, or left out, not -5",
		`{"commit": {"seconds": 1}}`:                              `could not make effective spec: unexpected field "seconds" in pps_v2.Spout.CommitPolicy`,
		`{"retention": {}}`:                                       "spout.retention must have at least one of commits, age",
		`{"retention": {"commits": -1}}`:                          "spout.retention.commits must be 1 or more, or left out, not -1",
		`{"retention": {"age": "0.5s"}}`:                          "spout.retention.age must be between 1s and 876000h0m0s, not 500ms",
		`{"liveness": {"tcp": {"port": 1}, "http": {"port": 1}}}`: "could not make effective spec: ",
		`{"restart": {"backoff": "1s"}}`:                          `could not make effective spec: unexpected field "backoff" in pps_v2.Spout.Restart`,
	} {
		user, err := parseUserSpec(`{"pipeline": {"name": "p"}, "transform": {"cmd": ["x"]}, "spout": ` + spout + `}`)
		var spec *effectiveSpec
		if err == nil {
			if spec, err = user.effective(); err == nil {
				err = validate(spec.request)
			}
		}
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", spout, err)
		case want != "" && (status.Code(err) != codes.InvalidArgument || !strings.HasPrefix(status.Convert(err).Message(), want)):
			t.Errorf("%s:\n got %v\nwant %s", spout, err, want)
		}
	}
}
