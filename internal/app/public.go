package app

// Names of the public cloud, by which a client reaches this server when a proxy leads
// it here. A vault is one label in front of publicVaults.
const (
	publicManagement = "management.azure.com"
	publicLogin      = "login.microsoftonline.com"
	publicGraph      = "graph.microsoft.com"
	publicVaults     = "vault.azure.net"
)
