// Package blobs keeps sealed objects of an engine in an object store: a container of
// Azure Blob Storage, a bucket of an S3-compatible one, or a directory. It is given
// sealed bytes and random names, and knows no documents; which object is under which
// name, and when one may go, the engine's database says.
//
// A blob is written once, under a name that was never used, and never changed.
// blobstest holds the contract as tests.
package blobs
