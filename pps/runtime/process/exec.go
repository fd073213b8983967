//go:build unix

package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/minipachd/minipachd/pps/runtime"
)

// follow reads what the keeper reports until the worker has ended.
func (w *worker) follow(in *json.Decoder) (report, error) {
	for {
		var r report
		if err := in.Decode(&r); err != nil || r.Exec == nil {
			return r, err
		}
		w.execMu.Lock()
		if ended, ok := w.execs[r.Exec.ID]; ok {
			delete(w.execs, r.Exec.ID)
			ended <- r.Exec
		}
		w.execMu.Unlock()
	}
}

// Exec implements runtime.Worker.
func (w *worker) Exec(ctx context.Context, cmd []string) error {
	if len(cmd) == 0 || cmd[0] == "" {
		return errors.New("there is no command")
	}
	path, err := findProgram(cmd[0], w.path, w.workDir)
	if err != nil {
		return err
	}
	ended := make(chan *result, 1)
	w.execMu.Lock()
	w.execID++
	id := w.execID
	w.execs[id] = ended
	w.execMu.Unlock()
	w.send(command{Op: opExec, ID: id, Path: path, Args: cmd})
	done := ctx.Done()
	for {
		select {
		case r := <-ended:
			return r.err(ctx)
		case <-w.done:
			return errors.New("the worker has ended")
		case <-done:
			done = nil
			w.send(command{Op: opCancel, ID: id})
		}
	}
}

// err is nil if the command ended by itself with status 0.
func (r *result) err(ctx context.Context) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("killed: %w", ctx.Err())
	case r.Error != "":
		return errors.New(r.Error)
	case r.Code == 0 && r.Signal == "":
		return nil
	}
	return errors.New(runtime.Exit{Code: r.Code, Signal: r.Signal}.String())
}
