package pachctl

import "testing"

func TestLoginAddress(t *testing.T) {
	for in, want := range map[string]string{
		"https://accounts.example.com/authorize?state=x": "https://accounts.example.com/authorize?state=x",
		"http://127.0.0.1:5556/auth":                     "http://127.0.0.1:5556/auth",
		"https://example.com/\x1b[2J":                    "",
		"file:///etc/passwd":                             "",
		"--help":                                         "",
		"javascript:alert(1)":                            "",
		"https:///x":                                     "",
		"":                                               "",
	} {
		got, err := loginAddress(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}
