package oidc

import (
	"html/template"
	"net/http"
)

// page is all that a browser sees.
var page = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{.Title}}</title></head>
<body><h1>{{.Title}}</h1><p>{{.Text}}</p></body>
</html>
`))

// writePage answers a browser. The page may load nothing, be framed nowhere, be
// kept nowhere, and its address, which holds the code, goes nowhere.
func writePage(w http.ResponseWriter, code int, text string) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	w.WriteHeader(code)
	title := "Logged in"
	if code != http.StatusOK {
		title = "Not logged in"
	}
	_ = page.Execute(w, struct{ Title, Text string }{title, text}) // the browser has gone
}
