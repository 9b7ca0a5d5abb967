package madang.read_test

import data.madang.dataset_read
import data.madang.request
import data.madang.secret_read

question := {
	"who": {"actor": "user:ann", "name": "ann", "roles": ["viewer"]},
	"object": {"name": "salaries"},
}

test_anything_may_be_read if {
	dataset_read.decision.allow with input as question
	secret_read.decision.allow with input as question
}

test_a_restricted_dataset if {
	not dataset_read.decision.allow with input as question
		with data.settings.datasets as {"salaries": {"roles": ["admin"]}}
}

test_the_message_names_the_roles if {
	found := secret_read.deny with input as question
		with data.settings.secrets as {"salaries": {"roles": ["admin", "operator"]}}
	found == {{
		"rule": "role",
		"message": "the secret salaries is for the roles admin, operator, and user:ann has: viewer",
	}}
}

test_a_role_that_is_among_them if {
	dataset_read.decision.allow with input as question
		with data.settings.datasets as {"salaries": {"roles": ["admin", "viewer"]}}
}

test_a_request_of_somebody_with_a_role if {
	request.decision.allow with input as question
}

test_a_request_of_somebody_without_roles if {
	not request.decision.allow with input as question
		with input.who.roles as []
}
