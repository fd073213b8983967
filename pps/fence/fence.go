// Package fence makes the credentials that workers write with, and takes them
// back. Each start of a worker, an incarnation, has a token of its own. For each
// slot of a pipeline one key in etcd says which incarnation may write; every
// transaction of a worker compares it as it commits. So a worker that was given
// up can write nothing, however long its requests were under way.
//
// A token names its slot and incarnation, so that one whose time is over is known
// as such for ever; etcd has only its hash.
package fence

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/minipachd/minipachd/store"
)

// prefix is that of the keys, one a slot: pps/fence/<project>/<pipeline>/<slot>.
const prefix = "pps/fence/"

// scheme begins every token.
const scheme = "pachd-worker"

// Incarnation is one start of a worker.
type Incarnation struct {
	Pipeline string // <project>/<name>
	Slot     int
	Version  uint64 // of the pipeline
	ID       string // unique; letters and digits
}

// slotName is how a slot is stored and shown.
func (i Incarnation) slotName() string { return i.Pipeline + "/" + strconv.Itoa(i.Slot) }

// Writer names the incarnation in the records of what it writes.
func (i Incarnation) Writer() string { return i.slotName() + "/" + i.ID }

// SameSlot tells whether a name that Writer made is of the same slot.
func (i Incarnation) SameSlot(writer string) bool { return strings.HasPrefix(writer, i.slotName()+"/") }

// WriterOf tells whether a name that Writer made is of the pipeline.
func WriterOf(writer, pipeline string) bool { return strings.HasPrefix(writer, pipeline+"/") }

// Token makes the secret that an incarnation writes with, 256 bits of it random.
func (i Incarnation) Token() string {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails
	return strings.Join([]string{
		scheme, base64.RawURLEncoding.EncodeToString([]byte(i.slotName())),
		strconv.FormatUint(i.Version, 10), i.ID, hex.EncodeToString(secret[:]),
	}, ".")
}

// Claims is what a token says of its holder.
type Claims struct {
	Incarnation
	token string
}

// Parse reads a token; ok is false for one that is not a worker's.
func Parse(token string) (c Claims, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 5 || parts[0] != scheme {
		return c, false
	}
	name, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return c, false
	}
	at := strings.LastIndexByte(string(name), '/')
	if at < 0 {
		return c, false
	}
	c.Pipeline, c.ID, c.token = string(name[:at]), parts[3], token
	if c.Slot, err = strconv.Atoi(string(name[at+1:])); err != nil {
		return c, false
	}
	c.Version, err = strconv.ParseUint(parts[2], 10, 64)
	return c, err == nil
}

// Key is the key of the slot in etcd.
func (c Claims) Key() string { return prefix + c.slotName() }

// Value is what the key holds while the token may write.
func (c Claims) Value() string {
	sum := sha256.Sum256([]byte(c.token))
	return fmt.Sprintf("%d %s %s", c.Version, c.ID, hex.EncodeToString(sum[:]))
}

// Ended makes the error for a write after that; current is what the key holds.
func (c Claims) Ended(current []byte) error {
	e := &EndedError{Incarnation: c.Incarnation}
	if words := strings.Fields(string(current)); len(words) == 3 {
		e.CurrentVersion, _ = strconv.ParseUint(words[0], 10, 64)
		e.Current = words[1]
	}
	return e
}

// EndedError refuses a write of a worker whose incarnation is over.
type EndedError struct {
	Incarnation
	Current        string // incarnation that may write now; empty if none
	CurrentVersion uint64 // of the pipeline, which Current runs
}

func (e *EndedError) Error() string {
	text := fmt.Sprintf("worker %d of pipeline %q, incarnation %s, may no longer write: it was given up", e.Slot, e.Pipeline, e.ID)
	switch e.Current {
	case "":
		return text + ", and no incarnation is current"
	case e.ID:
		return fmt.Sprintf("worker %d of pipeline %q: the token is not that of incarnation %s", e.Slot, e.Pipeline, e.ID)
	}
	return fmt.Sprintf("%s; incarnation %s of version %d is current", text, e.Current, e.CurrentVersion)
}

// GRPCStatus makes it PermissionDenied.
func (e *EndedError) GRPCStatus() *status.Status {
	return status.New(codes.PermissionDenied, e.Error())
}

// Admit lets the holder of a token write, and nobody else of its slot.
func Admit(tx *store.Txn, c Claims) { tx.Put(c.Key(), []byte(c.Value())) }

// Expel ends the right of an incarnation, unless it has ended before.
func Expel(tx *store.Txn, c Claims) error {
	value, ok, err := tx.Get(c.Key())
	if err == nil && ok && string(value) == c.Value() {
		tx.Delete(c.Key())
	}
	return err
}

// ExpelAll ends the right of all workers of a pipeline.
func ExpelAll(tx *store.Txn, pipeline string) { tx.DeletePrefix(prefix + pipeline + "/") }
