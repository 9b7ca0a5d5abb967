# METADATA
# description: May a rollout between versions of one endpoint begin, or promote one of them?
package madang.rollout

import data.madang.lib

decision := lib.decision(deny, exempt)

exempt contains rule if some rule in []

deny contains {"rule": "evaluation_present", "message": message} if {
	some arm in input.object.arms
	some model in arm.models
	count(model.metrics) == 0
	message := sprintf(
		"%s has no evaluation; run: madang models evaluate %s@%d --data DATASET --label COLUMN --keep",
		[model.ref, model.model, model.version],
	)
}

deny contains {"rule": "no_blocking_validation", "message": message} if {
	some ref in lib.blocked
	message := sprintf(
		"the endpoint %s would serve a model made from %s, whose last validation is blocked; mend the data or its contract, and train again",
		[input.object.endpoint, ref],
	)
}

deny contains {"rule": "two_people", "message": message} if {
	lib.two_people("endpoints", input.object.endpoint)
	not lib.approved_by_another
	message := sprintf(
		"the endpoint %s needs two people; somebody else must run: madang policy approve '%s'",
		[input.object.endpoint, input.subject],
	)
}
