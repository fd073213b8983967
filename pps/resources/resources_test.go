package resources

import (
	"math"
	"strings"
	"testing"

	"github.com/minipachd/minipachd/pps/runtime"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

func TestParseQuantity(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "1": 1, "64M": 64_000_000, "64Mi": 64 << 20, "1Gi": 1 << 30, "1.5Gi": 3 << 29, "500m": 1, "1500m": 2,
		"1k": 1000, "1Ki": 1024, "1E": 1e18, "7Ei": 7 << 60, "1e9": 1e9, "1E3": 1000, "12e-1": 2, "+2G": 2e9, ".5Gi": 1 << 29,
		"5.": 5, "1n": 1, "0m": 0, "-0": 0, "9223372036854775807": math.MaxInt64, "3u": 1,
	} {
		if got, err := ParseQuantity(text); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"": "is no quantity", "Mi": "is no quantity", "1Q": "is no quantity", "1 Gi": "is no quantity", "1gi": "is no quantity",
		"1KiB": "is no quantity", "0x10": "is no quantity", "1_000": "is no quantity", "NaN": "is no quantity", "1e9999": "is no quantity",
		"-1": "is negative", "8Ei": "is too large", "1e19": "is too large", "1e999": "is too large", strings.Repeat("9", 65): "cannot be read",
		"１": "is no quantity", "1/2": "is no quantity",
	} {
		if got, err := ParseQuantity(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %d, %v; want %q", text, got, err, want)
		}
	}
}

func TestParse_RequestsAndLimits(t *testing.T) {
	got, err := Parse(
		&ppspb.ResourceSpec{Cpu: 0.1, Memory: "32Mi", Disk: "1G"},
		&ppspb.ResourceSpec{Cpu: 0.5, Memory: "64Mi", Disk: "2G", Gpu: &ppspb.GPUSpec{Number: 2}})
	want := runtime.Resources{CPURequest: 0.1, CPULimit: 0.5, MemoryRequest: 32 << 20, MemoryLimit: 64 << 20, DiskLimit: 2e9, DiskRequest: 1e9, GPUs: 2}
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := Parse(nil, nil); err != nil || got != (runtime.Resources{}) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, c := range []struct {
		requests, limits *ppspb.ResourceSpec
		want             string
	}{
		{&ppspb.ResourceSpec{Cpu: 2}, &ppspb.ResourceSpec{Cpu: 1}, "resource_requests.cpu: 2 is more than resource_limits.cpu, 1"},
		{&ppspb.ResourceSpec{Disk: "2"}, &ppspb.ResourceSpec{Disk: "1"}, `resource_requests.disk: "2" is more than resource_limits.disk, "1"`},
		{nil, &ppspb.ResourceSpec{Cpu: 0.001}, "resource_limits.cpu: 0.001 is less than 0.01 of a processor, in which nothing runs"},
		{nil, &ppspb.ResourceSpec{Cpu: float32(math.Inf(1))}, "resource_limits.cpu: +Inf is no number of processors: write a number from 0 to 65536, such as 0.5"},
		{nil, &ppspb.ResourceSpec{Gpu: &ppspb.GPUSpec{Number: -1}}, "resource_limits.gpu.number: -1 is negative"},
	} {
		if _, err := Parse(c.requests, c.limits); err == nil || err.Error() != c.want {
			t.Errorf("%v\nwant %s", err, c.want)
		}
	}
}

func FuzzParseQuantity(f *testing.F) {
	for _, text := range []string{"64Mi", "1e9", "-1", ".5", "1e-999", "999999999999999999E"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := ParseQuantity(text); n < 0 || err != nil && n != 0 {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	})
}
