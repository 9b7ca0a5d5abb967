# METADATA
# description: |
#   May a request use a route of the HTTP API? Roles were checked before; these rules can only forbid
#   more. The input has `who`, `permission`, `method`, `route` and the route's `parameters`.
package madang.request

import data.madang.lib

decision := lib.decision(deny, exempt)

exempt contains rule if some rule in []

deny contains {"rule": "roles", "message": message} if {
	count(input.who.roles) == 0
	message := sprintf("%s has no role", [input.who.actor])
}
