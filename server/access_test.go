package server

import (
	"path"
	"regexp"
	"testing"

	"github.com/minipachd/minipachd/server/audit"
)

// tells names methods that only tell something, and gives away no secret.
var tells = regexp.MustCompile(`^(Check|List|Watch|ServerReflectionInfo|(Get|Inspect|List|Subscribe|Find|Walk|Glob|Diff|Render|Check)[A-Z]\w*|WhoAmI|Authorize|Fsck|(Repos|Pipelines)Summary|QueryLoki|PauseStatus|Heartbeat)$`)

// except are those whose names mislead: they make something, or give secrets away.
var except = map[string]bool{
	"/auth_v2.API/GetRobotToken": true, "/auth_v2.API/GetConfiguration": true,
	"/identity_v2.API/GetOIDCClient": true, "/identity_v2.API/ListOIDCClients": true,
	"/pfs_v2.API/GetFileSet": true,
}

// TestAccessTable_Classes has the calls of all methods recorded that change something.
// That no method is missing in the table, TestAccessTable_HasEveryMethod sees.
func TestAccessTable_Classes(t *testing.T) {
	for method, a := range accessTable {
		changes := except[method] || !tells.MatchString(path.Base(method))
		switch {
		case changes && a.class == audit.Read:
			t.Errorf("%s changes something, and is not recorded", method)
		case !changes && a.class != audit.Read:
			t.Errorf("%s only reads, and is recorded", method)
		}
	}
}
