package madang.rollout_test

import data.madang.rollout

question := {
	"subject": "endpoint:delay/rollout=late@2:1#0",
	"who": {"actor": "user:ann", "name": "ann", "roles": ["operator"]},
	"object": {
		"ref": "endpoint:delay", "endpoint": "delay",
		"arms": [{
			"model": "late", "version": 2, "weight": 1,
			"models": [{"ref": "model:late@2", "model": "late", "version": 2, "metrics": {}}],
		}],
	},
	"datasets": [],
	"approvals": [],
}

rules contains one.rule if some one in rollout.deny

test_an_evaluation if {
	rules == {"evaluation_present"} with input as question
}

test_blocking_validation if {
	"no_blocking_validation" in rules with input as question
		with input.datasets as [{"ref": "dataset:flights@3", "outcome": "blocked"}]
}

test_two_people if {
	"two_people" in rules with input as question
		with data.settings.endpoints as {"delay": {"two_people": true}}
}

test_who_started_it_does_not_approve_it if {
	"two_people" in rules with input as question
		with input.who as {"actor": "rollout:1", "name": "1", "roles": [], "started_by": "user:bob"}
		with data.settings.endpoints as {"delay": {"two_people": true}}
		with input.approvals as [{"by": "user:bob", "reason": ""}]
}

test_another_ones_approval if {
	rollout.decision.allow with input as question
		with input.object.arms as []
		with data.settings.endpoints as {"delay": {"two_people": true}}
		with input.approvals as [{"by": "user:bob", "reason": ""}]
}
