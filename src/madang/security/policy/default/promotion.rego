# METADATA
# description: May an alias of a model move (or go)? Its rules are about aliases that serve.
package madang.promotion

import data.madang.lib

decision := lib.decision(deny, exempt)

exempt contains rule if some rule in []

serves if {
	input.object.alias in data.settings.serving_aliases
	input.object.version != null
}

guards := object.get(data.settings.models, input.object.model, {})

deny contains {"rule": "evaluation_present", "message": message} if {
	serves
	not evaluated
	message := sprintf(
		"%s has no evaluation; run: madang models evaluate %s@%d --data DATASET --label COLUMN%s --keep",
		[input.object.ref, input.object.model, input.object.version, compare_option],
	)
}

evaluated if count(input.evaluation.metrics) > 0

# What MLflow's clients register has the metrics of its run.
evaluated if count(input.evaluation.run_metrics) > 0

compare_option := sprintf(" --compare %s", [input.object.alias]) if {
	input.object.previous != null
} else := ""

# With settings.models.NAME.guarded_slices, the comparison must be there and hold these slices.
deny contains {"rule": "compared_with_champion", "message": message} if {
	serves
	input.object.previous != null
	some name in guards.guarded_slices
	not name in compared_slices
	message := sprintf(
		"%s was not compared with the champion where %s; run: madang models evaluate %s@%d --data DATASET --label COLUMN --compare %s --slice '%s' --keep",
		[input.object.ref, name, input.object.model, input.object.version, input.object.alias, name],
	)
}

deny contains {"rule": "compared_with_champion", "message": message} if {
	serves
	input.object.previous != null
	other := input.evaluation.compared_with
	champion := sprintf("model:%s@%d", [input.object.model, input.object.previous])
	other != null
	other != champion
	message := sprintf(
		"%s was compared with %s, and %s is the champion now; run: madang models evaluate %s@%d --data DATASET --label COLUMN --compare %s --keep",
		[
			input.object.ref, other, champion,
			input.object.model, input.object.version, input.object.alias,
		],
	)
}

compared_slices contains part.name if some part in input.evaluation.comparison.slices

# A column of slices, such as "carrier", stands for each of its values.
compared_slices contains column if {
	some part in input.evaluation.comparison.slices
	some column in guards.guarded_slices
	startswith(part.name, sprintf("%s = ", [column]))
}

deny contains {"rule": "not_worse_than_champion", "message": message} if {
	serves
	input.object.previous != null
	comparison := input.evaluation.comparison
	comparison.not_worse == false
	message := sprintf(
		"%s is worse than the champion in %s: %v against %v",
		[input.object.ref, comparison.metric, comparison.challenger, comparison.champion],
	)
}

deny contains {"rule": "not_worse_on_guarded_slice", "message": message} if {
	serves
	input.object.previous != null
	comparison := input.evaluation.comparison
	some part in comparison.slices
	part.verdict == "worse"
	is_guarded(part.name)
	message := sprintf(
		"%s is worse than the champion where %s: %s %v against %v",
		[input.object.ref, part.name, comparison.metric, part.challenger, part.champion],
	)
}

# Without guarded_slices every slice that was compared is guarded.
is_guarded(_) if not guards.guarded_slices

is_guarded(name) if name in guards.guarded_slices

is_guarded(name) if {
	some column in guards.guarded_slices
	startswith(name, sprintf("%s = ", [column]))
}

deny contains {"rule": "no_blocking_validation", "message": message} if {
	serves
	some ref in lib.blocked
	message := sprintf(
		"%s was made from %s, whose last validation is blocked; mend the data or its contract, and train again",
		[input.object.ref, ref],
	)
}

deny contains {"rule": "two_people", "message": message} if {
	input.object.alias in data.settings.serving_aliases
	lib.two_people("models", input.object.model)
	not lib.approved_by_another
	message := sprintf(
		"the model %s needs two people; somebody else must run: madang policy approve '%s'",
		[input.object.model, input.subject],
	)
}
