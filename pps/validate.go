package pps

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/minipachd/minipachd/pps/resources"
	"github.com/minipachd/minipachd/pps/runtime"
	"github.com/minipachd/minipachd/pps/secrets"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

const (
	maxPipelineName   = 51
	maxKubernetesName = 63
	maxParallelism    = 1024
	maxPort           = 65535
)

var (
	nameChars    = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)
	nameStart    = regexp.MustCompile(`^[a-zA-Z0-9]`)
	serviceTypes = map[string]bool{"": true, "ClusterIP": true, "LoadBalancer": true, "NodePort": true}
)

// validate checks an effective spec by itself, without looking at what is
// stored. Clients match the texts; the first check that fails wins.
func validate(req *ppspb.CreatePipelineRequest) error {
	for _, check := range []func(*ppspb.CreatePipelineRequest) error{
		validateName, validateTransform, validateSpout, validateInput, validateService, validateKeeping, validateWorker, validateResources, validateSecrets, validateLimits,
	} {
		if err := check(req); err != nil {
			return err
		}
	}
	return nil
}

func validateName(req *ppspb.CreatePipelineRequest) error {
	if req.Pipeline == nil {
		return errors.New("request.Pipeline cannot be nil")
	}
	name, project := req.Pipeline.GetName(), projectName(req.Pipeline.GetProject())
	switch {
	case name == "":
		return errors.New("invalid pipeline spec: request.Pipeline.Name cannot be empty")
	case !nameChars.MatchString(name):
		return fmt.Errorf("invalid pipeline name: name (%s) invalid: only alphanumeric characters, underscores, and dashes are allowed", name)
	case !nameStart.MatchString(name):
		return errors.New("pipeline names must start with an alphanumeric character")
	case len(name) > maxPipelineName:
		return fmt.Errorf("pipeline name %q is %d characters longer than the %d max", name, len(name)-maxPipelineName, maxPipelineName)
	}
	if k8s := project + "-" + name + "-v99"; len(k8s) > maxKubernetesName {
		return fmt.Errorf("Kubernetes name %q is %d characters longer than the %d max", k8s, len(k8s)-maxKubernetesName, maxKubernetesName)
	}
	return nil
}

func validateTransform(req *ppspb.CreatePipelineRequest) error {
	switch {
	case req.TfJob != nil:
		return errors.New("embedding TFJobs in pipelines is not supported yet")
	case req.Transform == nil:
		return errors.New("pipeline must specify a transform")
	case req.Transform.GetImage() == "":
		return errors.New("pipeline transform must contain an image")
	}
	if _, err := runtime.ParseUmask(req.Transform.GetUmask()); err != nil {
		return invalid("transform.%v", err)
	}
	for name, value := range req.Transform.GetEnv() {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return invalid("transform.env: %q is no name of an environment variable", name)
		}
		if strings.ContainsRune(value, 0) {
			return invalid("transform.env: the value of %s must not have NUL in it", name)
		}
	}
	if slices.ContainsFunc(req.Transform.GetCmd(), func(arg string) bool { return strings.ContainsRune(arg, 0) }) {
		return invalid("transform.cmd must not have NUL in it")
	}
	return nil
}

func validateSpout(req *ppspb.CreatePipelineRequest) error {
	switch {
	case req.S3Out && (req.Spout != nil || req.Service != nil):
		return errors.New("s3 output is not supported in spouts or services")
	case req.Spout != nil && req.Autoscaling:
		return errors.New("autoscaling can't be used with spouts (spouts aren't triggered externally)")
	case req.Spout != nil && req.Spout.Service == nil && req.Input != nil:
		return errors.New("spout pipelines (without a service) must not have an input")
	}
	return nil
}

// validateInput refuses an input that says nothing or several things.
func validateInput(req *ppspb.CreatePipelineRequest) error {
	var check func(in *ppspb.Input) error
	check = func(in *ppspb.Input) error {
		kinds := 0
		if in.GetPfs() != nil {
			kinds++
		}
		if in.GetCron() != nil {
			kinds++
		}
		for _, list := range [][]*ppspb.Input{in.GetJoin(), in.GetGroup(), in.GetCross(), in.GetUnion()} {
			if len(list) == 0 {
				continue
			}
			kinds++
			for _, sub := range list {
				if err := check(sub); err != nil {
					return err
				}
			}
		}
		switch kinds {
		case 0:
			return errors.New("no input set")
		case 1:
			return nil
		}
		return errors.New("multiple input types set")
	}
	if req.Input == nil {
		return nil
	}
	return check(req.Input)
}

func validateService(req *ppspb.CreatePipelineRequest) error {
	if req.Service != nil && req.Spout != nil {
		return errors.New("only one of pipeline.service or pipeline.spout can be set")
	}
	if n := req.GetParallelismSpec().GetConstant(); req.Service != nil && n > 1 {
		return errors.New("services can only be run with a constant parallelism of 1")
	}
	for _, svc := range []*ppspb.Service{req.GetService(), req.GetSpout().GetService()} {
		if t := svc.GetType(); !serviceTypes[t] {
			return fmt.Errorf("the following service type %s is not allowed", t)
		}
	}
	if svc := req.GetSpout().GetService(); svc != nil {
		// Internal port 0: the worker is told a free one.
		if port := svc.GetInternalPort(); port < 0 || port > maxPort {
			return invalid("spout.service.internal_port must be between 0 and %d, not %d", maxPort, port)
		}
		if port := svc.GetExternalPort(); port < 1 || port > maxPort {
			return invalid("spout.service.external_port must be between 1 and %d, not %d", maxPort, port)
		}
	}
	return nil
}

func validateWorker(req *ppspb.CreatePipelineRequest) error {
	switch req.ReprocessSpec {
	case "", "until_success", "every_job":
	default:
		return fmt.Errorf("invalid pipeline spec: ReprocessSpec must be one of %q or %q", "until_success", "every_job")
	}
	if req.PodSpec != "" && !json.Valid([]byte(req.PodSpec)) {
		return errors.New("malformed PodSpec")
	}
	if req.PodPatch != "" && !json.Valid([]byte(req.PodPatch)) {
		return errors.New("malformed PodPatch")
	}
	for i, t := range req.Tolerations {
		if t.GetOperator() == ppspb.TolerationOperator_EMPTY {
			return fmt.Errorf("toleration %d/%d: cannot omit key/value comparison operator; specify EQUAL or EXISTS", i+1, len(req.Tolerations))
		}
	}
	return nil
}

func validateResources(req *ppspb.CreatePipelineRequest) error {
	_, err := resources.Parse(req.ResourceRequests, req.ResourceLimits)
	for field, spec := range map[string]*ppspb.ResourceSpec{
		"sidecar_resource_requests": req.SidecarResourceRequests,
		"sidecar_resource_limits":   req.SidecarResourceLimits,
	} {
		if err == nil {
			err = resources.Check(field, spec)
		}
	}
	if err != nil {
		return invalid("%v", err)
	}
	return nil
}

func validateSecrets(req *ppspb.CreatePipelineRequest) error {
	return secrets.CheckForm(req.Transform.GetSecrets())
}

func validateLimits(req *ppspb.CreatePipelineRequest) error {
	if n := req.GetParallelismSpec().GetConstant(); n > maxParallelism {
		return invalid("parallelism_spec.constant is %d, more than %d", n, maxParallelism)
	}
	if d := req.GetMaximumExpectedUptime(); d != nil && d.AsDuration() != 0 && !req.Autoscaling {
		return errors.New("autoscaling must be true when max_expected_uptime is non-zero")
	}
	return nil
}

// supported refuses what is no spout. It comes after all other checks.
func supported(req *ppspb.CreatePipelineRequest) error {
	switch {
	case req.Service != nil:
		return unimplemented("pipeline %q is a service; this server runs only spouts", key(req.Pipeline))
	case req.Spout == nil:
		return unimplemented("pipeline %q is a transform pipeline (it has no \"spout\"); this server runs only spouts", key(req.Pipeline))
	case req.Input != nil:
		return unimplemented("pipeline %q is a spout with an input; this server runs only spouts without one", key(req.Pipeline))
	}
	return nil
}
