// Package postgres is the engine for more than one machine: log, objects and rows of
// all documents in one database that speaks PostgreSQL's protocol. Nodes keep nothing
// of their own; any number of them share the database.
//
// # Invariants
//
//   - A write returns after the commit that holds it, which the database has made
//     durable on its primary and, where it is set up so, on a standby; see durability.
//   - An append is compare-and-append in one statement: it moves the document's head
//     from the expected one under the expected term, and writes the record only if it
//     did. Who owns a document is decided there and nowhere else, never by time.
//   - Appends of many documents that wait together are one statement and one commit.
//   - A write is repeated only when the database surely did not do it. Where nobody
//     knows, it is an error, and the caller reads before it goes on.
//   - No lock of the database is held while it waits for us, but in a write of several
//     rows; that one it ends itself.
//   - Plain SQL: no advisory locks, no LISTEN, no extension, no procedure. Every
//     primary key begins with what the data can be spread by.
//
// docs/formats/store-postgres.md draws every table and says what is in the clear.
package postgres
