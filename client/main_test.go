package client_test

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/minipachd/minipachd/client"
	"github.com/minipachd/minipachd/client/internal/fakepachd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deadline is a context that ends long after every test should have.
func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func start(t *testing.T, opts ...client.Option) (*fakepachd.Server, *client.Client) {
	t.Helper()
	s := fakepachd.Start(t)
	return s, connect(t, s.Addr(), opts...)
}

func connect(t *testing.T, address string, opts ...client.Option) *client.Client {
	t.Helper()
	c, err := client.New(address, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
