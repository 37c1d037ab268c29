// Package pkcs11 keeps keys in a PKCS#11 token: a hardware security module, or SoftHSM.
// Keys are made in the token or imported into it, are marked sensitive and not
// extractable, and are used there: this process never sees a private key that was made
// in it. Keys have ids, which are their CKA_ID.
//
// RSA decryption asks the token for the bare operation (CKM_RSA_X_509) and takes the
// padding off here, in constant time: tokens differ in the OAEP hashes they know
// (SoftHSM 2.6.1 has SHA-1 alone), and what they answer to bad padding cannot be told
// from a failure. Where a token does not have the bare operation, as in FIPS mode, its
// own OAEP and PKCS #1 v1.5 are used.
//
// The package needs cgo; without it there is no Open. It knows nothing of vaults.
package pkcs11
