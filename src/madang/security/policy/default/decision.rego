# METADATA
# description: |
#   What Madang asks is data.madang.NAME.decision: an object with `allow` and `deny`.
#   A project's policies/*.rego add to these packages: `deny contains {"rule": …, "message": …} if …`
#   forbids more, `exempt contains "RULE" if …` takes one of the rules back for some inputs.
package madang.lib

# The decision of a package, from its sets of denials and exempt rules.
decision(deny, exempt) := {
	"allow": count(kept(deny, exempt)) == 0,
	"deny": kept(deny, exempt),
	"exempt": {one.rule | some one in deny; one.rule in exempt},
}

kept(deny, exempt) := {one | some one in deny; not is_exempt(one, exempt)}

is_exempt(one, exempt) if one.rule in exempt

# Whether a project's settings want two people for something.
two_people(kind, name) if data.settings[kind][name].two_people == true

approved_by_another if {
	some approval in input.approvals
	approval.by != input.who.actor
	not started_by(approval.by)
}

# Who started a rollout does not approve what it asks for by itself.
started_by(person) if input.who.started_by == person

# A thing that settings.KIND.NAME.roles restricts is for people with one of these roles.
role_missing(kind, name) if {
	roles := data.settings[kind][name].roles
	not has_one_of(roles)
}

has_one_of(roles) if {
	some role in input.who.roles
	role in roles
}

blocked contains dataset.ref if {
	some dataset in input.datasets
	dataset.outcome == "blocked"
}
