package blobs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/minio/minio-go/v7"
	keys "github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/tidelock/tidelock/internal/envelope"
)

// bucket is a bucket of an S3-compatible store.
type bucket struct {
	client *minio.Client
	name   string
}

func openS3(u *url.URL, c credentials) (Store, error) {
	query := u.Query()
	region := query.Get("region")
	query.Del("region")
	name := strings.Trim(u.Path, "/")
	if len(query) > 0 || strings.Contains(name, "/") {
		return nil, errors.New("s3: want https://host/bucket, with ?region= at most")
	}
	var found *keys.Credentials
	switch {
	case c == (credentials{}):
		found = keys.NewChainCredentials([]keys.Provider{&keys.EnvAWS{}, &keys.EnvMinio{}, &keys.IAM{Client: http.DefaultClient}})
	case c.AccessKeyID == "" || c.SecretAccessKey == "" || c.AccountName != "" || c.AccountKey != "":
		return nil, fmt.Errorf(`s3: credentials must be {"accessKeyId":"…","secretAccessKey":"…"}`)
	default:
		found = keys.NewStaticV4(c.AccessKeyID, c.SecretAccessKey, "")
	}
	client, err := minio.New(u.Host, &minio.Options{Creds: found, Secure: u.Scheme == "https", Region: region})
	if err != nil {
		return nil, err
	}
	return bucket{client, name}, nil
}

func (b bucket) Put(ctx context.Context, name Name, value envelope.Sealed) error {
	_, err := b.client.PutObject(ctx, b.name, name.String(), bytes.NewReader(value.Bytes()), int64(len(value.Bytes())),
		minio.PutObjectOptions{ContentType: "application/octet-stream"})
	return err
}

func (b bucket) Get(ctx context.Context, name Name, most int) ([]byte, error) {
	object, err := b.client.GetObject(ctx, b.name, name.String(), minio.GetObjectOptions{})
	if err != nil {
		return nil, missing(err)
	}
	defer object.Close()
	value, err := readAtMost(object, name, most)
	return value, missing(err)
}

// missing turns the store's word for it into ours. A bucket that is not there is another
// error: else all that is in it would seem never to have been.
func missing(err error) error {
	if minio.ToErrorResponse(err).Code == minio.NoSuchKey {
		return ErrNotFound
	}
	return err
}

func (b bucket) Delete(ctx context.Context, name Name) error {
	err := b.client.RemoveObject(ctx, b.name, name.String(), minio.RemoveObjectOptions{})
	if errors.Is(missing(err), ErrNotFound) {
		return nil
	}
	return err
}

func (b bucket) List(ctx context.Context, after Name, limit int) ([]Name, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the listing, which else waits for a reader
	start := ""
	if after != (Name{}) {
		start = after.String()
	}
	var names []Name
	for object := range b.client.ListObjects(ctx, b.name, minio.ListObjectsOptions{StartAfter: start, Recursive: true}) {
		if object.Err != nil {
			return nil, object.Err
		}
		if name, ok := ParseName(object.Key); ok {
			if names = append(names, name); len(names) == limit {
				break
			}
		}
	}
	return names, nil
}
