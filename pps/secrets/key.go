package secrets

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const keyBytes = 32 // AES-256

// Key encrypts and decrypts values.
type Key struct {
	id   string
	aead cipher.AEAD
}

// ID names the key without telling anything of it.
func (k *Key) ID() string { return k.id }

func newKey(secret []byte) (*Key, error) {
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append([]byte("minipachd secret key id\x00"), secret...))
	return &Key{id: hex.EncodeToString(sum[:8]), aead: aead}, nil
}

// LoadKey reads a key file: 64 hexadecimal digits.
func LoadKey(path string) (*Key, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("secret key file %s does not exist; make one with: (umask 077; openssl rand -hex %d > %s)", path, keyBytes, path)
	}
	if err != nil {
		return nil, fmt.Errorf("secret key file: %w", err)
	}
	secret, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(secret) != keyBytes {
		return nil, fmt.Errorf("secret key file %s is damaged: it must hold %d hexadecimal digits", path, 2*keyBytes)
	}
	return newKey(secret)
}

// LoadOrCreateKey is LoadKey, but makes a file that is missing, with mode 0600 and
// a random key. The key is on disk before it is used.
func LoadOrCreateKey(path string) (*Key, error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return LoadKey(path)
	}
	var secret [keyBytes]byte
	_, _ = rand.Read(secret[:]) // never fails
	if err := writeFile(path, []byte(hex.EncodeToString(secret[:])+"\n")); err != nil {
		return nil, fmt.Errorf("make secret key file: %w", err)
	}
	return LoadKey(path)
}

// writeFile makes a file that is there with all of its bytes or not at all, and
// never replaces one.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// seal encrypts a value. It can be opened only under the same names.
func (k *Key) seal(name, key string, value []byte) []byte {
	nonce := make([]byte, k.aead.NonceSize(), k.aead.NonceSize()+len(value)+k.aead.Overhead())
	_, _ = rand.Read(nonce) // never fails
	return k.aead.Seal(nonce, nonce, value, boundTo(name, key))
}

func (k *Key) open(name, key string, sealed []byte) ([]byte, error) {
	n := k.aead.NonceSize()
	if len(sealed) < n {
		return nil, errors.New("too short")
	}
	return k.aead.Open(nil, sealed[:n], sealed[n:], boundTo(name, key))
}

// boundTo is the associated data of a value; names have no NUL.
func boundTo(name, key string) []byte { return []byte("minipachd secret\x00" + name + "\x00" + key) }

// sealedPrefix begins what SealText gives; the key's id and base64 follow.
const sealedPrefix = "sealed:"

// SealText encrypts a text that is kept elsewhere than in a Store. It can be opened
// only under the same name.
func (k *Key) SealText(name, text string) string {
	sealed := k.seal(textSecret, name, []byte(text))
	return sealedPrefix + k.id + ":" + base64.RawStdEncoding.EncodeToString(sealed)
}

// OpenText gives the text that SealText was given. What is not sealed at all it gives
// back as it is, and sealed is false.
func (k *Key) OpenText(name, sealedText string) (text string, sealed bool, err error) {
	rest, ok := strings.CutPrefix(sealedText, sealedPrefix)
	id, rest, isPair := strings.Cut(rest, ":")
	data, damaged := base64.RawStdEncoding.DecodeString(rest)
	switch {
	case !ok || !isPair || len(id) != len(k.id) || damaged != nil:
		return sealedText, false, nil
	case id != k.id:
		return "", true, fmt.Errorf("it is encrypted with key %s, but this pachd has key %s: start it with the key file of then (--secret-key-file)", id, k.id)
	}
	plain, err := k.open(textSecret, name, data)
	if err != nil {
		return "", true, errors.New("it is damaged")
	}
	return string(plain), true, nil
}

// textSecret stands for the name of a secret, which it cannot be.
const textSecret = "(text)"
