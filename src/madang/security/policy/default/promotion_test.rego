package madang.promotion_test

import data.madang.promotion

question := {
	"subject": "model:late/champion=2",
	"who": {"actor": "user:ann", "name": "ann", "roles": ["operator"]},
	"object": {
		"ref": "model:late@2", "model": "late", "alias": "champion",
		"version": 2, "previous": 1,
	},
	"evaluation": {
		"metrics": {"auc": 0.7}, "compared_with": "model:late@1",
		"comparison": {
			"metric": "auc", "not_worse": true, "verdict": "better",
			"challenger": 0.7, "champion": 0.68,
			"slices": [{
				"name": "carrier = UA", "rows": 900, "verdict": "no difference",
				"challenger": 0.7, "champion": 0.7,
			}],
		},
	},
	"datasets": [{"ref": "dataset:flights@3", "outcome": "valid"}],
	"approvals": [],
}

rules contains one.rule if some one in promotion.deny

test_a_good_challenger_is_promoted if {
	promotion.decision.allow with input as question
}

test_without_an_evaluation_it_is_not if {
	rules == {"evaluation_present"} with input as question
		with input.evaluation as {"metrics": {}}
}

test_metrics_of_its_run_are_one if {
	promotion.decision.allow with input as question
		with input.evaluation as {"metrics": {}, "run_metrics": {"auc": 0.7}}
}

test_other_aliases_need_none if {
	promotion.decision.allow with input as question
		with input.object.alias as "challenger"
		with input.evaluation as {"metrics": {}}
}

test_removal_needs_none if {
	promotion.decision.allow with input as question
		with input.object.version as null
		with input.evaluation as {"metrics": {}}
}

test_worse_on_all_rows if {
	rules == {"not_worse_than_champion"} with input as question
		with input.evaluation.comparison.not_worse as false
}

test_worse_on_a_slice_names_it if {
	found := promotion.deny with input as question
		with input.evaluation.comparison.slices as [{
			"name": "carrier = UA", "rows": 900, "verdict": "worse",
			"challenger": 0.6, "champion": 0.7,
		}]
	found == {{
		"rule": "not_worse_on_guarded_slice",
		"message": "model:late@2 is worse than the champion where carrier = UA: auc 0.6 against 0.7",
	}}
}

test_a_slice_that_is_not_guarded if {
	promotion.decision.allow with input as question
		with input.evaluation.comparison.slices as [
			{
				"name": "carrier = UA", "rows": 900, "verdict": "worse",
				"challenger": 0.6, "champion": 0.7,
			},
			{
				"name": "origin = JFK", "rows": 900, "verdict": "better",
				"challenger": 0.7, "champion": 0.6,
			},
		]
		with data.settings.models as {"late": {"guarded_slices": ["origin"]}}
}

test_a_guarded_slice_must_be_compared if {
	rules == {"compared_with_champion"} with input as question
		with data.settings.models as {"late": {"guarded_slices": ["origin"]}}
}

test_the_first_champion_has_nobody_to_be_compared_with if {
	promotion.decision.allow with input as question
		with input.object.previous as null
		with data.settings.models as {"late": {"guarded_slices": ["origin"]}}
}

test_a_comparison_with_an_older_champion if {
	rules == {"compared_with_champion"} with input as question
		with input.evaluation.compared_with as "model:late@0"
}

test_blocking_validation if {
	rules == {"no_blocking_validation"} with input as question
		with input.datasets as [{"ref": "dataset:flights@3", "outcome": "blocked"}]
}

test_never_validated_is_not_blocked if {
	promotion.decision.allow with input as question
		with input.datasets as [{"ref": "dataset:flights@3", "outcome": null}]
}

test_two_people if {
	rules == {"two_people"} with input as question
		with data.settings.models as {"late": {"two_people": true}}
}

test_ones_own_approval_is_none if {
	rules == {"two_people"} with input as question
		with data.settings.models as {"late": {"two_people": true}}
		with input.approvals as [{"by": "user:ann", "reason": ""}]
}

test_another_ones_approval if {
	promotion.decision.allow with input as question
		with data.settings.models as {"late": {"two_people": true}}
		with input.approvals as [{"by": "user:bob", "reason": ""}]
}

test_an_exempt_rule_is_named if {
	found := promotion.decision with input as question
		with input.evaluation as {"metrics": {}}
		with promotion.exempt as {"evaluation_present"}
	found == {"allow": true, "deny": set(), "exempt": {"evaluation_present"}}
}
