package process

import (
	"bytes"
	"os"
	"strconv"
)

// canMeasure tells whether memoryOf works.
const canMeasure = true

// memoryOf adds up the memory that processes have for themselves, in bytes: what
// no file backs. Pages that they share are counted once, but only looked into
// when the cheap sum, which counts them for each, exceeds limit.
func memoryOf(list []proc, limit int64) int64 {
	var sum int64
	for _, p := range list {
		sum += residentOf(p.pid)
	}
	if sum <= limit {
		return sum
	}
	sum = 0
	for _, p := range list {
		sum += proportionalOf(p.pid)
	}
	return sum
}

// residentOf is the resident memory of a process but for its file pages.
func residentOf(pid int) int64 {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	fields := bytes.Fields(data)
	if err != nil || len(fields) < 3 {
		return 0 // it has ended
	}
	resident, _ := strconv.ParseInt(string(fields[1]), 10, 64)
	shared, _ := strconv.ParseInt(string(fields[2]), 10, 64)
	return (resident - shared) * int64(os.Getpagesize())
}

// proportionalOf divides pages among the processes that share them.
func proportionalOf(pid int) int64 {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		return residentOf(pid) // Linux before 4.14, or it has ended
	}
	for line := range bytes.Lines(data) {
		if rest, ok := bytes.CutPrefix(line, []byte("Pss_Anon:")); ok {
			kib, _ := strconv.ParseInt(string(bytes.Fields(rest)[0]), 10, 64)
			return kib << 10
		}
	}
	return residentOf(pid)
}
