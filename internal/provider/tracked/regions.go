package tracked

// Region is a place a resource can be in. Here it is a label: the rules compare it,
// nothing is stored elsewhere because of it.
type Region struct{ Name, DisplayName string }

// Regions are the public cloud's, so that what was written for Azure is understood
// here. Source: Azure documentation, "List of Azure regions".
var Regions = []Region{
	{"australiacentral", "Australia Central"},
	{"australiaeast", "Australia East"},
	{"australiasoutheast", "Australia Southeast"},
	{"austriaeast", "Austria East"},
	{"belgiumcentral", "Belgium Central"},
	{"brazilsouth", "Brazil South"},
	{"canadacentral", "Canada Central"},
	{"canadaeast", "Canada East"},
	{"centralindia", "Central India"},
	{"centralus", "Central US"},
	{"chilecentral", "Chile Central"},
	{"denmarkeast", "Denmark East"},
	{"eastasia", "East Asia"},
	{"eastus", "East US"},
	{"eastus2", "East US 2"},
	{"francecentral", "France Central"},
	{"germanywestcentral", "Germany West Central"},
	{"indonesiacentral", "Indonesia Central"},
	{"israelcentral", "Israel Central"},
	{"italynorth", "Italy North"},
	{"japaneast", "Japan East"},
	{"japanwest", "Japan West"},
	{"koreacentral", "Korea Central"},
	{"koreasouth", "Korea South"},
	{"malaysiawest", "Malaysia West"},
	{"mexicocentral", "Mexico Central"},
	{"newzealandnorth", "New Zealand North"},
	{"northcentralus", "North Central US"},
	{"northeurope", "North Europe"},
	{"norwayeast", "Norway East"},
	{"polandcentral", "Poland Central"},
	{"qatarcentral", "Qatar Central"},
	{"southafricanorth", "South Africa North"},
	{"southcentralus", "South Central US"},
	{"southeastasia", "Southeast Asia"},
	{"southindia", "South India"},
	{"spaincentral", "Spain Central"},
	{"swedencentral", "Sweden Central"},
	{"switzerlandnorth", "Switzerland North"},
	{"uaenorth", "UAE North"},
	{"uksouth", "UK South"},
	{"ukwest", "UK West"},
	{"westcentralus", "West Central US"},
	{"westeurope", "West Europe"},
	{"westindia", "West India"},
	{"westus", "West US"},
	{"westus2", "West US 2"},
	{"westus3", "West US 3"},
}

// KnownRegion says whether a short name is one of Regions.
func KnownRegion(short string) bool {
	for _, r := range Regions {
		if r.Name == short {
			return true
		}
	}
	return false
}

func regionNames() []string {
	names := make([]string, len(Regions))
	for i, r := range Regions {
		names[i] = r.Name
	}
	return names
}
