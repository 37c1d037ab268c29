package blobs

import (
	"context"
	"fmt"
	"net/url"

	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/tidelock/tidelock/internal/envelope"
)

// azure is a container of Azure Blob Storage. A write is acknowledged by the service once it is
// durable there.
type azure struct{ container *container.Client }

func openAzure(u *url.URL, c credentials) (Store, error) {
	if u.RawQuery != "" {
		return nil, fmt.Errorf("azure: the container's URL has a query: give credentials in a file")
	}
	var client *container.Client
	var err error
	switch {
	case c == (credentials{}):
		found, credErr := azidentity.NewDefaultAzureCredential(nil)
		if credErr != nil {
			return nil, credErr
		}
		client, err = container.NewClient(u.String(), found, nil)
	case c.AccountName == "" || c.AccountKey == "" || c.AccessKeyID != "" || c.SecretAccessKey != "":
		return nil, fmt.Errorf(`azure: credentials must be {"accountName":"…","accountKey":"…"}`)
	default:
		key, keyErr := container.NewSharedKeyCredential(c.AccountName, c.AccountKey)
		if keyErr != nil {
			return nil, fmt.Errorf("azure: accountKey is not base64")
		}
		client, err = container.NewClientWithSharedKeyCredential(u.String(), key, nil)
	}
	if err != nil {
		return nil, err
	}
	return azure{client}, nil
}

func (a azure) blob(n Name) *blockblob.Client { return a.container.NewBlockBlobClient(n.String()) }

func (a azure) Put(ctx context.Context, name Name, value envelope.Sealed) error {
	_, err := a.blob(name).UploadBuffer(ctx, value.Bytes(), nil)
	return err
}

func (a azure) Get(ctx context.Context, name Name, most int) ([]byte, error) {
	answer, err := a.blob(name).DownloadStream(ctx, nil)
	if bloberror.HasCode(err, bloberror.BlobNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	body := answer.NewRetryReader(ctx, nil)
	defer body.Close()
	return readAtMost(body, name, most)
}

func (a azure) Delete(ctx context.Context, name Name) error {
	_, err := a.blob(name).Delete(ctx, &blob.DeleteOptions{})
	if bloberror.HasCode(err, bloberror.BlobNotFound) {
		return nil
	}
	return err
}

// List asks page after page: the service takes no name to begin after, and passes a mark
// of its own on instead.
func (a azure) List(ctx context.Context, after Name, limit int) ([]Name, error) {
	var names []Name
	for pages := a.container.NewListBlobsFlatPager(nil); pages.More(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, item := range page.Segment.BlobItems {
			if item.Name == nil {
				continue
			}
			name, ok := ParseName(*item.Name)
			if !ok || after != (Name{}) && name.String() <= after.String() {
				continue
			}
			if names = append(names, name); len(names) == limit {
				return names, nil
			}
		}
	}
	return names, nil
}
