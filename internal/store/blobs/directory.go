package blobs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tidelock/tidelock/internal/envelope"
)

// directory keeps each blob in a file, in one of 256 folders by the first byte of its
// name. On several nodes it is a file system that all of them mount.
type directory struct{ path string }

func openDirectory(path string) (Store, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("dir:%s is not an absolute path", path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", path)
	}
	return directory{path}, nil
}

func (d directory) folder(n Name) string { return filepath.Join(d.path, n.String()[:2]) }
func (d directory) file(n Name) string   { return filepath.Join(d.folder(n), n.String()) }

// unfinished is how files begin that are being written; a crash may leave some.
const unfinished = ".new-"

func (d directory) Put(ctx context.Context, name Name, value envelope.Sealed) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	folder := d.folder(name)
	if err := os.Mkdir(folder, 0o700); err == nil {
		err = syncDirectory(d.path)
		if err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	f, err := os.CreateTemp(folder, unfinished+"*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // it may be renamed already; then it is there, as an error allows
		}
	}()
	_, err = f.Write(value.Bytes())
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), d.file(name))
	}
	if err != nil {
		return err
	}
	return syncDirectory(folder)
}

// syncDirectory makes a new name in a directory durable, or that one is gone.
func syncDirectory(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = f.Sync()
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

func (d directory) Get(ctx context.Context, name Name, most int) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := os.Open(d.file(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAtMost(f, name, most)
}

// readAtMost reads all of r, which is the blob of this name.
func readAtMost(r io.Reader, name Name, most int) ([]byte, error) {
	value := make([]byte, most)
	n, err := io.ReadFull(r, value)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return value[:n], nil
	case err != nil:
		return nil, err
	}
	if more, err := r.Read(make([]byte, 1)); more > 0 {
		return nil, tooLarge(name, most)
	} else if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return value, nil
}

func (d directory) Delete(ctx context.Context, name Name) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := os.Remove(d.file(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncDirectory(d.folder(name))
}

func (d directory) List(ctx context.Context, after Name, limit int) ([]Name, error) {
	folders, err := os.ReadDir(d.path) // in order
	if err != nil {
		return nil, err
	}
	var names []Name
	for _, folder := range folders {
		if folder.Name() < after.String()[:2] || !folder.IsDir() {
			continue
		}
		files, err := os.ReadDir(filepath.Join(d.path, folder.Name()))
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			name, ok := ParseName(f.Name())
			if !ok || !strings.HasPrefix(f.Name(), folder.Name()) || f.Name() <= after.String() && after != (Name{}) {
				continue
			}
			if names = append(names, name); len(names) == limit {
				return names, nil
			}
		}
	}
	return slices.Clip(names), nil
}
