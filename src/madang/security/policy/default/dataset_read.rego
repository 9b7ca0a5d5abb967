# METADATA
# description: May a dataset be read? settings.datasets.NAME.roles restricts one to people with these roles.
package madang.dataset_read

import data.madang.lib

decision := lib.decision(deny, exempt)

exempt contains rule if some rule in []

deny contains {"rule": "role", "message": message} if {
	lib.role_missing("datasets", input.object.name)
	message := sprintf(
		"the dataset %s is for the roles %s, and %s has: %s",
		[
			input.object.name,
			concat(", ", data.settings.datasets[input.object.name].roles),
			input.who.actor,
			concat(", ", input.who.roles),
		],
	)
}
