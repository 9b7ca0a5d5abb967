"""What every policy engine must do."""

from __future__ import annotations

import threading

import pytest

from madang.errors import InvalidInputError, PolicyError
from madang.security.policy import Bundle

DECISION = """\
package madang.doing

decision := {"allow": count(deny) == 0, "deny": deny, "exempt": set()}

deny contains {"rule": "old", "message": message} if {
	some age in input.ages
	age > 9
	message := sprintf("%d is too old for %s", [age, input.name])
}

deny contains "nobody asks" if not input.name
"""


def bundle(text: str, **data) -> Bundle:
    return Bundle({"madang/doing.rego": text}, data)


class PolicyContract:
    """Needs the fixture `engine`: an engine without a bundle."""

    def test_without_a_bundle_everything_is_denied(self, engine):
        found = engine.decide("doing", {"name": "x"})
        assert not found.allow
        assert "no policy is loaded" in found.message
        with pytest.raises(PolicyError, match="no policy is loaded"):
            engine.evaluate("madang.doing.decision", {})

    def test_what_no_rule_denies_is_allowed(self, engine):
        engine.load(bundle(DECISION))
        found = engine.decide("doing", {"name": "ann", "ages": [1, 2]}, bundle="b", digest="d")
        assert (found.allow, found.reasons, found.bundle, found.input) == (True, (), "b", "d")
        found.require()

    def test_a_denial_has_the_rules_own_message(self, engine):
        engine.load(bundle(DECISION))
        found = engine.decide("doing", {"name": "ann", "ages": [10, 3, 11]})
        assert not found.allow
        assert [(r.rule, r.message) for r in found.reasons] == [
            ("old", "10 is too old for ann"),
            ("old", "11 is too old for ann"),
        ]

    def test_a_plain_message_is_a_denial_too(self, engine):
        engine.load(bundle(DECISION))
        found = engine.decide("doing", {"ages": []})
        assert [(r.rule, r.message) for r in found.reasons] == [("deny", "nobody asks")]

    def test_undefined_denies(self, engine):
        engine.load(bundle(DECISION))
        found = engine.decide("flying", {"name": "ann"})
        assert not found.allow
        assert [r.rule for r in found.reasons] == ["undefined"]
        assert engine.evaluate("madang.doing.nothing", {}) == (False, None)

    @pytest.mark.parametrize(
        "value", ["true", "{}", '{"allow": "yes", "deny": []}', '{"allow": true}', "[1]"]
    )
    def test_another_form_of_answer_denies(self, engine, value):
        engine.load(bundle(f"package madang.doing\n\ndecision := {value}\n"))
        found = engine.decide("doing", {})
        assert (found.allow, [r.rule for r in found.reasons]) == (False, ["malformed"])

    def test_allow_beside_a_denial_denies(self, engine):
        text = 'package madang.doing\n\ndecision := {"allow": true, "deny": ["no"]}\n'
        engine.load(bundle(text))
        assert not engine.decide("doing", {}).allow

    def test_not_allowed_without_a_denial_says_so(self, engine):
        text = 'package madang.doing\n\ndecision := {"allow": false, "deny": []}\n'
        engine.load(bundle(text))
        assert "does not allow it" in engine.decide("doing", {}).message

    def test_an_error_of_a_builtin_denies(self, engine):
        """Undefined would leave the rule silent, and all would be allowed."""
        text = DECISION.replace("age > 9", "to_number(age) > 9")
        engine.load(bundle(text))
        assert not engine.decide("doing", {"name": "ann", "ages": ["12"]}).allow
        found = engine.decide("doing", {"name": "ann", "ages": ["twelve"]})
        assert (found.allow, [r.rule for r in found.reasons]) == (False, ["error"])
        assert "to_number" in found.message

    def test_two_values_for_one_rule_deny(self, engine):
        text = (
            "package madang.doing\n\n"
            'decision := {"allow": true, "deny": []} if input.a\n\n'
            'decision := {"allow": true, "deny": [], "exempt": []} if input.b\n'
        )
        engine.load(bundle(text))
        assert engine.decide("doing", {"a": 1}).allow
        assert [r.rule for r in engine.decide("doing", {"a": 1, "b": 1}).reasons] == ["error"]

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("package madang.doing\n\ndecision :=\n", "doing.rego"),
            ("package madang.doing\n\nallow if x > 1\n", "unsafe"),
            ("package madang.doing\n\nallow if not input.xs[i]\n", "unsafe"),
            ("package madang.doing\n\nallow if no.such(1)\n", "no.such"),
            ("package madang.doing\n\np if q\n\nq if p\n", "recursive"),
        ],
    )
    def test_what_cannot_be_loaded_leaves_the_one_before(self, engine, text, problem):
        engine.load(bundle(DECISION))
        with pytest.raises(InvalidInputError, match=problem):
            engine.load(bundle(text))
        assert engine.decide("doing", {"name": "ann", "ages": []}).allow
        assert not engine.decide("doing", {"name": "ann", "ages": [10]}).allow

    def test_a_bundle_replaces_the_whole_of_the_one_before(self, engine):
        engine.load(Bundle({"a.rego": DECISION, "b.rego": "package madang.more\n\nx := 1\n"}))
        assert engine.evaluate("madang.more.x", {}) == (True, 1)
        engine.load(Bundle({"a.rego": DECISION}))
        assert engine.evaluate("madang.more.x", {}) == (False, None)

    def test_files_may_need_each_other(self, engine):
        uses = "package madang.a\n\nimport data.madang.z\n\nx := z.twice(2)\n"
        gives = "package madang.z\n\ntwice(n) := n * 2\n"
        engine.load(Bundle({"a.rego": uses, "z.rego": gives}))
        assert engine.evaluate("madang.a.x", {}) == (True, 4)

    def test_rules_read_the_data(self, engine):
        text = "package madang.doing\n\nx := data.settings.names[input.key]\n"
        engine.load(bundle(text, settings={"names": {"a": "ann"}}))
        assert engine.evaluate("madang.doing.x", {"key": "a"}) == (True, "ann")
        engine.load(bundle(text, settings={"names": {"b": "bob"}}))
        assert engine.evaluate("madang.doing.x", {"key": "a"}) == (False, None)

    @pytest.mark.parametrize("name", ["", "Doing", "a.b", "a/b", "x" * 80, "a b"])
    def test_a_decisions_name_is_checked(self, engine, name):
        engine.load(bundle(DECISION))
        with pytest.raises(InvalidInputError, match="decision's name"):
            engine.decide(name, {})

    def test_many_threads_ask_at_once(self, engine):
        engine.load(bundle(DECISION))
        wrong = []

        def ask(age):
            for _ in range(20):
                found = engine.decide("doing", {"name": "ann", "ages": [age]})
                if found.allow != (age < 10):
                    wrong.append((age, found))

        threads = [threading.Thread(target=ask, args=(age,)) for age in (1, 9, 10, 20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    def test_its_health_is_told(self, engine):
        assert engine.health().ok
