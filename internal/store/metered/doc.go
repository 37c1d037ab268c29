// Package metered counts what goes wrong in a store, whichever engine it is: appends
// that failed, and values that came back damaged.
//
// It changes no call and no answer. What only shows when a value is opened, because its
// seal is broken, is not seen here; the relay counts it with the loads of documents.
package metered
