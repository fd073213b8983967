package jq

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/itchyny/gojq"
)

// runEnv makes a start of the executable the process of a program.
const runEnv = "MINIPACHD_JQ"

// runCalled guards Match: without MaybeRun in main, the process would be a second
// daemon (or a second run of all tests).
var runCalled atomic.Bool

// MaybeRun turns this process into one that runs a program, if it was started so,
// and then never returns; otherwise it does nothing. main, and TestMain of packages
// that filter, call it before anything else.
func MaybeRun() {
	runCalled.Store(true)
	if os.Getenv(runEnv) == "" {
		return
	}
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "jq: %v\n", err)
		os.Exit(ownFailure)
	}
	os.Exit(0)
}

// run answers every input with a verdict, until there are no more.
func run(r io.Reader, w io.Writer) error {
	in, out := json.NewDecoder(r), json.NewEncoder(w)
	var req request
	if err := in.Decode(&req); err != nil {
		return err
	}
	if err := limit(req.Memory, req.Seconds); err != nil {
		return err
	}
	code, err := compile(req.Program)
	if err != nil {
		return err
	}
	for {
		var input any
		if err := in.Decode(&input); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := out.Encode(judge(code, input)); err != nil {
			return err
		}
	}
}

func judge(code *gojq.Code, input any) verdict {
	first, ok := code.Run(input).Next()
	if err, failed := first.(error); failed {
		return verdict{Error: err.Error()}
	}
	return verdict{Keep: ok && first != nil && first != false}
}
