# METADATA
# description: May a secret be read? settings.secrets.NAME.roles restricts one to people with these roles.
package madang.secret_read

import data.madang.lib

decision := lib.decision(deny, exempt)

exempt contains rule if some rule in []

deny contains {"rule": "role", "message": message} if {
	lib.role_missing("secrets", input.object.name)
	message := sprintf(
		"the secret %s is for the roles %s, and %s has: %s",
		[
			input.object.name,
			concat(", ", data.settings.secrets[input.object.name].roles),
			input.who.actor,
			concat(", ", input.who.roles),
		],
	)
}
