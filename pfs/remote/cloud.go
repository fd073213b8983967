package remote

import (
	"context"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"gocloud.dev/blob"
	"gocloud.dev/blob/azureblob"
	"gocloud.dev/blob/s3blob"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	"google.golang.org/grpc/codes"
)

// Object stores are opened with the credentials that the environment of pachd has,
// in the way of each provider's own tools; without any, as nobody in particular.
// Which host is asked is for the environment alone to change (AWS_ENDPOINT_URL_S3,
// STORAGE_EMULATOR_HOST, AZURE_STORAGE_DOMAIN): a URL that could say so would send
// the credentials there.

// open opens the bucket of a URL, and gives the key that the URL names in it.
func (c *Client) open(ctx context.Context, u *url.URL) (bucket, string, error) {
	if u.Fragment != "" {
		return nil, "", refusal(codes.InvalidArgument, "it has a fragment; write # in a name as %%23")
	}
	for name := range u.Query() {
		if u.Scheme != "s3" || name != "region" {
			return nil, "", refusal(codes.InvalidArgument, "it has the parameter %q; the only one that there is is region, of s3", name)
		}
	}
	if u.Scheme == "file" {
		return c.openDir(u)
	}
	tr := c.transport()
	// None of these services redirects a request that is right.
	hc := &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	var b *blob.Bucket
	var err error
	switch u.Scheme {
	case "s3":
		b, err = openS3(ctx, hc, u)
	case "gs":
		b, err = openGCS(ctx, hc, u)
	case "azblob":
		b, err = openAzure(ctx, hc, u)
	default:
		err = refusal(codes.InvalidArgument, "%s is no object store", u.Scheme)
	}
	if err != nil {
		tr.CloseIdleConnections()
		return nil, "", err
	}
	return &blobBucket{b: b, end: tr.CloseIdleConnections}, strings.TrimPrefix(u.Path, "/"), nil
}

// Names go into host names, so they must be no more than names.
var (
	bucketName  = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]*$`)
	regionName  = regexp.MustCompile(`^[a-z0-9-]+$`)
	accountName = regexp.MustCompile(`^[a-z0-9]{3,24}$`)
)

func checkBucket(u *url.URL) error {
	if !bucketName.MatchString(u.Host) || u.User != nil && u.Scheme != "azblob" {
		return refusal(codes.InvalidArgument, "%q is no name of a bucket", u.Host)
	}
	return nil
}

// openS3 opens a bucket in the region that the URL, or else the environment, gives.
func openS3(ctx context.Context, hc *http.Client, u *url.URL) (*blob.Bucket, error) {
	if err := checkBucket(u); err != nil {
		return nil, err
	}
	region := u.Query().Get("region")
	if region != "" && !regionName.MatchString(region) {
		return nil, refusal(codes.InvalidArgument, "%q is no name of a region", region)
	}
	var opts []func(*config.LoadOptions) error
	if region != "" {
		opts = append(opts, config.WithRegion(region))
	}
	cfg, err := config.LoadDefaultConfig(ctx, opts...)
	if err != nil {
		return nil, err
	}
	if cfg.Region == "" {
		cfg.Region = "us-east-1"
	}
	// Credentials may come from an address of the cloud that is not public: their
	// requests are pachd's own and go around the policy for URLs.
	if cfg.Credentials == nil {
		cfg.Credentials = aws.AnonymousCredentials{}
	} else if _, err := cfg.Credentials.Retrieve(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		cfg.Credentials = aws.AnonymousCredentials{}
	}
	client := s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.HTTPClient = hc
		o.UsePathStyle = o.BaseEndpoint != nil // stores of other makers have no hosts per bucket
	})
	return s3blob.OpenBucket(ctx, client, u.Host, &s3blob.Options{RequestChecksumCalculation: cfg.RequestChecksumCalculation})
}

// gcsEndpoint serves Cloud Storage's XML API, which is that of S3 in all that is
// needed here and takes OAuth tokens. Google's own client library would do the same
// at a price: 20 MB more of binary and twice the time to start, pachctl included.
const gcsEndpoint = "https://storage.googleapis.com"

const gcsScope = "https://www.googleapis.com/auth/devstorage.read_write"

func openGCS(ctx context.Context, hc *http.Client, u *url.URL) (*blob.Bucket, error) {
	if err := checkBucket(u); err != nil {
		return nil, err
	}
	endpoint := gcsEndpoint
	var rt http.RoundTripper = plainHeaders{hc.Transport}
	if emulator := os.Getenv("STORAGE_EMULATOR_HOST"); emulator != "" {
		endpoint = "http://" + strings.TrimPrefix(emulator, "http://")
	} else if creds, err := google.FindDefaultCredentials(ctx, gcsScope); err == nil {
		rt = &oauth2.Transport{Base: rt, Source: creds.TokenSource}
	}
	client := s3.New(s3.Options{
		BaseEndpoint:               &endpoint,
		Region:                     "auto",
		UsePathStyle:               true,
		Credentials:                aws.AnonymousCredentials{},
		HTTPClient:                 &http.Client{Transport: rt, CheckRedirect: hc.CheckRedirect},
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
	})
	return s3blob.OpenBucket(ctx, client, u.Host, &s3blob.Options{RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired})
}

// plainHeaders leaves out the headers that are Amazon's alone.
type plainHeaders struct{ next http.RoundTripper }

func (p plainHeaders) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	for name := range req.Header {
		if strings.HasPrefix(name, "X-Amz-") || strings.HasPrefix(name, "Amz-Sdk-") {
			req.Header.Del(name)
		}
	}
	return p.next.RoundTrip(req)
}

// openAzure opens azblob://container/… in the account of the environment, or
// azblob://container@account.blob.core.windows.net/… in another.
func openAzure(ctx context.Context, hc *http.Client, u *url.URL) (*blob.Bucket, error) {
	opts := azureblob.NewDefaultServiceURLOptions()
	mine := opts.AccountName
	if opts.StorageDomain == "" {
		opts.StorageDomain = "blob.core.windows.net"
	}
	name := u.Host
	if u.User != nil {
		account, domain, _ := strings.Cut(u.Host, ".")
		if domain != opts.StorageDomain || !accountName.MatchString(account) {
			return nil, refusal(codes.InvalidArgument, "%q is no account of %s", u.Host, opts.StorageDomain)
		}
		name, opts.AccountName = u.User.Username(), account
	}
	if !bucketName.MatchString(name) {
		return nil, refusal(codes.InvalidArgument, "%q is no name of a container", name)
	}
	if opts.AccountName == "" {
		return nil, refusal(codes.FailedPrecondition, "it names no storage account, and the server has none: write azblob://%s@account.%s/…", name, opts.StorageDomain)
	}
	if opts.AccountName != mine {
		opts.SASToken = "" // it is of the other account
	}
	service, err := azureblob.NewServiceURL(opts)
	if err != nil {
		return nil, err
	}
	client, err := azureClient(string(service), name, opts.AccountName == mine, &container.ClientOptions{ClientOptions: policy.ClientOptions{Transport: hc}})
	if err != nil {
		return nil, err
	}
	return azureblob.OpenBucket(ctx, client, nil)
}

// azureClient picks the credentials: those of the server's own account for it
// alone, an identity of Azure for any.
func azureClient(service, name string, own bool, opts *container.ClientOptions) (*container.Client, error) {
	u, err := url.Parse(service)
	if err != nil {
		return nil, err
	}
	location := u.JoinPath(name).String()
	connection := os.Getenv("AZURE_STORAGE_CONNECTION_STRING")
	key := os.Getenv("AZURE_STORAGE_KEY")
	switch {
	case own && key != "":
		cred, err := container.NewSharedKeyCredential(os.Getenv("AZURE_STORAGE_ACCOUNT"), key)
		if err != nil {
			return nil, err
		}
		return container.NewClientWithSharedKeyCredential(location, cred, opts)
	case own && u.RawQuery != "":
		return container.NewClientWithNoCredential(location, opts)
	case own && connection != "":
		return container.NewClientFromConnectionString(connection, name, opts)
	case os.Getenv("AZURE_CLIENT_ID") != "":
		cred, err := azidentity.NewDefaultAzureCredential(nil)
		if err != nil {
			return nil, err
		}
		return container.NewClient(location, cred, opts)
	}
	return container.NewClientWithNoCredential(location, opts)
}
