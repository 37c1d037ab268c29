// Package graph is the directory's own API: the part of Microsoft Graph that Azure's
// tools ask for (who is this client id, what is its object id) and that operators need
// (applications, their secrets, certificates and federated credentials), and, as a
// preview of our own under /beta, directories and the rotation of the signing key.
//
// An application and its service principal are one thing here, with one object id.
// Every principal of a directory may read it; to write takes an administrator of the
// directory. Directories are made by administrators of the home directory, the one
// that the installation was made with.
//
// Not here: users, groups (their lists are empty), owners, app roles, consent.
package graph
