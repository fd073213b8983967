package server

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/minipachd/minipachd/auth"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	"github.com/minipachd/minipachd/server/audit"
	"github.com/minipachd/minipachd/server/transaction"
)

// AuditOff as Config.AuditDir keeps no audit log.
const AuditOff = "off"

// call is one request, as its log line and its entry in the audit log tell of it.
type call struct {
	ctx               context.Context
	method            string
	start             time.Time
	caller            auth.Identity
	refused           error          // what it was refused with, for want of a right
	request, response any            // of unary calls
	objects           *audit.Objects // of streams
}

// refusal gives an error back that says that the caller lacks a right.
func refusal(err error) error {
	var denied *auth.DeniedError
	var none *auth.NoBindingError
	switch {
	case errors.As(err, &denied):
		return denied
	case errors.As(err, &none):
		return none
	case status.Code(err) == codes.PermissionDenied, status.Code(err) == codes.Unauthenticated:
		return errRefused
	}
	return nil
}

// errRefused is a refusal whose text is not for the audit log.
var errRefused = errors.New("")

// openAudit continues the audit log, unless it is off.
func (s *Server) openAudit() (*audit.Log, error) {
	switch dir := s.cfg.AuditDir; dir {
	case AuditOff:
		return nil, nil
	case "":
		return audit.Open(s.dir.join("audit"), s.log.Named("audit"))
	default:
		return audit.Open(dir, s.log.Named("audit"))
	}
}

// record makes the entry of a call in the audit log, if it gets one.
func (g *guard) record(c *call, err error) {
	class := accessTable[c.method].class
	// Somebody unknown who only gets errors must not fill the record of what was done.
	refused := c.refused != nil || err != nil && c.caller.Subject == "" && g.auth.Active()
	if !g.audit.Wants(class, refused) {
		return
	}
	objects := c.objects
	if objects == nil {
		objects = &audit.Objects{}
		objects.Add(c.request)
	}
	details := audit.Details(c.request)
	if id := metadata.ValueFromIncomingContext(c.ctx, transaction.MetadataKey); len(id) > 0 {
		details = append(details, "in transaction "+id[0])
	}
	subject := c.caller.Subject
	if a, ok := c.response.(*authpb.AuthenticateResponse); ok && err == nil {
		// Who calls is nobody until this very answer.
		if id, err := g.auth.Authenticate(c.ctx, a.GetPachToken()); err == nil {
			subject = id.Subject
		}
	}
	text := "" // other errors may quote what they are about: an env, a secret
	if c.refused != nil {
		text = status.Convert(c.refused).Message()
	}
	g.audit.Record(audit.Entry{
		Method: c.method, Class: class, Refused: refused,
		Subject: subject, From: addressOf(c.ctx), Agent: agentOf(c.ctx), Objects: objects.List(), Details: details,
		Duration: time.Since(c.start), Code: status.Code(err), Error: text,
	})
}
