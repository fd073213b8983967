package client

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// inClusterConfig is where a container finds its configuration.
const inClusterConfig = "/pachctl/config.json"

// Config is the file that clients share: named contexts, each saying how to
// reach one pachd. Fields that this package does not know survive a rewrite.
type Config struct {
	UserID        string
	ActiveContext string
	// ActiveEnterpriseContext is kept for other clients; nothing here goes by it.
	ActiveEnterpriseContext string
	Contexts                map[string]*Context
	Metrics                 bool

	path string
	top  fields // unknown fields of the file
	v2   fields // unknown fields of "v2"
}

// Context says how to reach one pachd, as whom, and in which project.
type Context struct {
	PachdAddress      string
	ServerCAs         string  // base64 of PEM, for grpcs addresses
	SessionToken      *string // nil: none is sent; empty: an empty one is sent
	ActiveTransaction string
	ClusterName       string
	AuthInfo          json.RawMessage
	Namespace         string
	Project           string

	extra fields
}

// fields are the members of a JSON object.
type fields map[string]json.RawMessage

// take moves a member into to; an absent or null one leaves it alone.
func (f fields) take(name string, to any) error {
	raw, ok := f[name]
	if !ok {
		return nil
	}
	delete(f, name)
	if err := json.Unmarshal(raw, to); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// set adds a member, unless it is to be left out.
func (f fields) set(name string, v any, omit bool) error {
	if omit {
		return nil
	}
	raw, err := json.Marshal(v)
	f[name] = raw
	return err
}

func (f fields) clone() fields {
	c := make(fields, len(f)+8)
	for k, v := range f {
		c[k] = v
	}
	return c
}

// ConfigPath is the file that LoadConfig("") reads: $PACH_CONFIG, else
// /pachctl/config.json if there is one, else ~/.pachyderm/config.json.
func ConfigPath() (string, error) {
	if p := os.Getenv("PACH_CONFIG"); p != "" {
		return p, nil
	}
	if _, err := os.Stat(inClusterConfig); err == nil {
		return inClusterConfig, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the configuration: %w; set PACH_CONFIG", err)
	}
	return filepath.Join(home, ".pachyderm", "config.json"), nil
}

// LoadConfig reads the configuration at path, or at ConfigPath if path is empty.
// A file that is missing is an empty configuration.
func LoadConfig(path string) (*Config, error) {
	if path == "" {
		var err error
		if path, err = ConfigPath(); err != nil {
			return nil, err
		}
	}
	cfg := &Config{path: path, Contexts: map[string]*Context{}, Metrics: true, top: fields{}, v2: fields{}}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return cfg, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if err := cfg.parse(data); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	return cfg, nil
}

func (c *Config) parse(data []byte) error {
	if err := json.Unmarshal(data, &c.top); err != nil {
		return err
	}
	if c.top == nil {
		c.top = fields{}
	}
	contexts := map[string]json.RawMessage{}
	err := errors.Join(c.top.take("user_id", &c.UserID), c.top.take("v2", &c.v2))
	if c.v2 == nil {
		c.v2 = fields{}
	}
	err = errors.Join(err,
		c.v2.take("active_context", &c.ActiveContext),
		c.v2.take("active_enterprise_context", &c.ActiveEnterpriseContext),
		c.v2.take("metrics", &c.Metrics),
		c.v2.take("contexts", &contexts))
	for name, raw := range contexts {
		x, e := ParseContext(raw)
		if e != nil {
			e = fmt.Errorf("context %q: %w", name, e)
		}
		err = errors.Join(err, e)
		c.Contexts[name] = x
	}
	return err
}

// ParseContext reads one context as it stands in the file.
func ParseContext(data []byte) (*Context, error) {
	x := &Context{}
	if err := json.Unmarshal(data, &x.extra); err != nil {
		return nil, err
	}
	if x.extra == nil {
		x.extra = fields{}
	}
	return x, errors.Join(
		x.extra.take("pachd_address", &x.PachdAddress),
		x.extra.take("server_cas", &x.ServerCAs),
		x.extra.take("session_token", &x.SessionToken),
		x.extra.take("active_transaction", &x.ActiveTransaction),
		x.extra.take("cluster_name", &x.ClusterName),
		x.extra.take("auth_info", &x.AuthInfo),
		x.extra.take("namespace", &x.Namespace),
		x.extra.take("project", &x.Project))
}

// MarshalJSON writes the context as it stands in the file.
func (x *Context) MarshalJSON() ([]byte, error) {
	f := x.extra.clone()
	err := errors.Join(
		f.set("pachd_address", x.PachdAddress, x.PachdAddress == ""),
		f.set("server_cas", x.ServerCAs, x.ServerCAs == ""),
		f.set("session_token", x.SessionToken, x.SessionToken == nil),
		f.set("active_transaction", x.ActiveTransaction, x.ActiveTransaction == ""),
		f.set("cluster_name", x.ClusterName, x.ClusterName == ""),
		f.set("auth_info", x.AuthInfo, len(x.AuthInfo) == 0),
		f.set("namespace", x.Namespace, x.Namespace == ""),
		f.set("project", x.Project, x.Project == ""))
	if err != nil {
		return nil, err
	}
	return json.Marshal(f)
}

// MarshalJSON writes the configuration as it stands in the file.
func (c *Config) MarshalJSON() ([]byte, error) {
	v2, top := c.v2.clone(), c.top.clone()
	err := errors.Join(
		v2.set("active_context", c.ActiveContext, c.ActiveContext == ""),
		v2.set("active_enterprise_context", c.ActiveEnterpriseContext, c.ActiveEnterpriseContext == ""),
		v2.set("contexts", c.Contexts, false),
		v2.set("metrics", c.Metrics, false),
		top.set("user_id", c.UserID, c.UserID == ""))
	if err != nil {
		return nil, err
	}
	if err := top.set("v2", v2, false); err != nil {
		return nil, err
	}
	return json.Marshal(top)
}

// Path is the file that the configuration came from.
func (c *Config) Path() string { return c.path }

// Save replaces the file, at once and readable by its owner only, since it holds
// tokens. A symbolic link stays one.
func (c *Config) Save() error {
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	path := c.path
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if err := writeFile(path, append(data, '\n')); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

func writeFile(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".config-*.json") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// Active gives the context in use: the one that $PACH_CONTEXT names, else the
// active one. Name and context are empty if there is none; naming one that does
// not exist is an error.
func (c *Config) Active() (name string, x *Context, err error) {
	name, from := c.ActiveContext, "active_context"
	if env := os.Getenv("PACH_CONTEXT"); env != "" {
		name, from = env, "PACH_CONTEXT"
	}
	if name == "" {
		return "", &Context{}, nil
	}
	x = c.Contexts[name]
	if x == nil {
		return "", nil, fmt.Errorf("configuration %s: %s names context %q, which is not there", c.path, from, name)
	}
	return name, x, nil
}

// Options are what the context says about a connection, besides its address.
func (x *Context) Options() ([]Option, error) {
	var opts []Option
	if x.ServerCAs != "" {
		pem, err := base64.StdEncoding.DecodeString(x.ServerCAs)
		if err != nil {
			return nil, fmt.Errorf("server_cas: %w", err)
		}
		opts = append(opts, WithServerCAs(pem))
	}
	if x.SessionToken != nil {
		opts = append(opts, WithToken(*x.SessionToken))
	}
	if x.ActiveTransaction != "" {
		opts = append(opts, WithTransaction(x.ActiveTransaction))
	}
	if x.Project != "" {
		opts = append(opts, WithProject(x.Project))
	}
	return opts, nil
}

// NewFromConfig makes a client of the pachd that cfg's context in use leads to.
// The address is the first of: $PACHD_ADDRESS, the context's, the environment of
// a container ($PACHD_PEER_SERVICE_HOST and _PORT, $PACHD_SERVICE_HOST and
// _PORT), DefaultAddress. $PACH_TOKEN is the token of a context without one.
// opts win over the context.
func NewFromConfig(cfg *Config, opts ...Option) (*Client, error) {
	_, x, err := cfg.Active()
	if err != nil {
		return nil, err
	}
	fromContext, err := x.Options()
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", cfg.path, err)
	}
	if token, ok := os.LookupEnv("PACH_TOKEN"); ok && (x.SessionToken == nil || *x.SessionToken == "") {
		fromContext = append(fromContext, WithToken(token))
	}
	return New(addressOf(x), append(fromContext, opts...)...)
}

func addressOf(x *Context) string {
	if a := os.Getenv("PACHD_ADDRESS"); a != "" {
		return a
	}
	if x.PachdAddress != "" {
		return x.PachdAddress
	}
	for _, service := range []string{"PACHD_PEER_SERVICE", "PACHD_SERVICE"} {
		host, port := os.Getenv(service+"_HOST"), os.Getenv(service+"_PORT")
		if host != "" && port != "" {
			return host + ":" + port
		}
	}
	return DefaultAddress
}

// NewFromEnv makes a client as its surroundings say: on a user's machine like
// pachctl, in a worker with the worker's address, token and project. See
// LoadConfig and NewFromConfig.
func NewFromEnv(opts ...Option) (*Client, error) {
	cfg, err := LoadConfig("")
	if err != nil {
		return nil, err
	}
	return NewFromConfig(cfg, opts...)
}
