package server

import (
	"context"
	"fmt"
	"os"

	"go.uber.org/zap"

	"github.com/minipachd/minipachd/client/specfile"
)

// Applied tells what became of one spec of Config.Apply.
type Applied struct {
	Pipeline string // name of the pipeline
	Action   string // created, updated or unchanged
}

// Applied lists the pipelines of Config.Apply, complete once ready is called.
func (s *Server) Applied() []Applied { return s.applied }

// applyFile creates or updates the pipelines of a spec file, and leaves alone
// those that are as the file says.
func (s *Server) applyFile(ctx context.Context, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	defer f.Close()
	specs, err := specfile.Parse(f)
	if err != nil {
		return fmt.Errorf("apply %s: %w", name, err)
	}
	if len(specs) == 0 {
		return fmt.Errorf("apply %s: the file holds no pipeline spec", name)
	}
	for i, spec := range specs {
		result, err := s.pps.Apply(ctx, string(spec))
		if err != nil {
			return fmt.Errorf("apply %s: spec %d: %w", name, i+1, err)
		}
		s.log.Info("applied pipeline spec", zap.String("file", name),
			zap.String("pipeline", result.Pipeline.GetName()), zap.String("action", string(result.Action)))
		s.applied = append(s.applied, Applied{Pipeline: result.Pipeline.GetName(), Action: string(result.Action)})
	}
	return nil
}
