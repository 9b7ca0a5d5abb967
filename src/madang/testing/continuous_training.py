"""What every continuous-training engine must do."""

from __future__ import annotations

import dataclasses
import json

import pytest

from madang.errors import (
    AuthenticationError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
)
from madang.ledger import now_us
from madang.workflow.continuous_training import EventStatus, Kind, Trigger
from madang.workflow.continuous_training.signature import sign


class ContinuousTrainingContract:
    """Needs the fixtures `training` (an engine without triggers) and `stack` (its project)."""

    def test_a_trigger_comes_back_as_it_was_defined(self, training):
        trigger = Trigger(
            "retrain.delay", Kind.ALERT, "train", {"days": 30, "more": {"a": [1, None]}},
            source="drift-*", where={"severity": ["high", "critical"]}, debounce_seconds=1.5,
            max_runs=3, per_seconds=60.0, max_active=2, pool="big", enabled=False,
        )  # fmt: skip
        assert training.define(trigger) == trigger
        assert training.get("retrain.delay") == trigger
        assert training.list() == [trigger]
        changed = training.define(dataclasses.replace(trigger, enabled=True))
        assert training.list() == [changed]
        training.remove("retrain.delay")
        training.remove("retrain.delay")
        assert training.list() == []
        with pytest.raises(NotFoundError, match=r"no trigger 'retrain\.delay'; there is: none"):
            training.get("retrain.delay")

    def test_the_same_definition_again_changes_nothing(self, training, stack):
        trigger = Trigger("a", Kind.MANUAL, "train")
        training.define(trigger)
        training.define(trigger)
        (line,) = stack.ledger.lines(kind="trigger.define")
        assert line.subject == "trigger:a"
        assert line.data["pipeline"] == "train"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"name": "a b"}, "a trigger's name has letters"),
            ({"pipeline": ""}, "needs the name of a pipeline"),
            ({"kind": Kind.SCHEDULE}, "of kind schedule needs the field cron"),
            ({"kind": Kind.SCHEDULE, "cron": "61 * * * *"}, "'61 [*] [*] [*] [*]' is no schedule"),
            ({"kind": Kind.SCHEDULE, "cron": "* * * * * *"}, "it has five fields"),
            ({"kind": Kind.SCHEDULE, "cron": "0 0 30 2 *"}, "is no schedule"),
            ({"kind": Kind.SCHEDULE, "cron": "0 * * * *", "zone": "Mars/X"}, "no time zone"),
            ({"kind": Kind.SCHEDULE, "cron": "0 * * * *", "where": {"a": 1}}, "no where"),
            ({"kind": Kind.WEBHOOK}, "needs the field secret"),
            ({"kind": Kind.FILE, "source": "../x/*"}, "inside of the project's folder"),
            ({"kind": Kind.FILE, "source": "/etc/*"}, "inside of the project's folder"),
            ({"source": "x"}, "of kind manual can't have the field source"),
            ({"max_active": 0}, "max_active is 1 to 10000, found 0"),
            ({"debounce_seconds": -1.0}, "debounce_seconds is 0 to"),
            ({"where": {"a": {"over": 1}}}, "where a takes a value"),
            ({"params": {"a": {1}.__iter__}}, "is not usable"),
            ({"kind": "comet"}, "is not usable"),
        ],
    )
    def test_what_can_not_work_is_refused(self, training, changes, message):
        with pytest.raises(InvalidInputError, match=message):
            training.define(dataclasses.replace(Trigger("a", Kind.MANUAL, "train"), **changes))
        assert training.list() == []

    def test_pipelines_that_start_each_other_are_refused(self, training):
        training.define(Trigger("b", Kind.PIPELINE, "b", after=("a",)))
        training.define(Trigger("c", Kind.PIPELINE, "pipelines/c.py:c", after=("b",)))
        for after in (("c",), ("x", "b")):
            with pytest.raises(InvalidInputError, match="would start each other for ever"):
                training.define(Trigger("a", Kind.PIPELINE, "a", after=after))
        assert [t.name for t in training.list()] == ["b", "c"]

    def test_an_event_is_taken_once_and_carries_its_reason(self, training, stack):
        training.define(
            Trigger("a", Kind.MANUAL, "train", {"day": "${data.day}", "of": "d-${key}"})
        )
        event = training.fire("a", key="k", reason="drift of age", data={"day": 3})
        assert event.status is EventStatus.WAITING
        assert (event.key, event.reason, event.params) == (
            "k", "drift of age", {"day": 3, "of": "d-k"},
        )  # fmt: skip
        assert event.run_id == event.id
        again = training.fire("a", key="k", reason="another", data={"day": 4})
        assert again == event
        assert training.events() == [event]
        other = training.fire("a", key="l", reason="more", data={"day": 5})
        assert other.id != event.id
        assert {e.id for e in training.events(trigger="a")} == {event.id, other.id}
        assert training.events(status=EventStatus.SUCCEEDED) == []
        lines = stack.ledger.lines(kind="trigger.event", newest_first=False)
        assert [line.outputs for line in lines] == [(event.ref,), (other.ref,)]
        assert lines[0].data["reason"] == "drift of age"

    def test_the_run_of_an_event_has_the_same_id_everywhere(self, training):
        training.define(Trigger("a", Kind.MANUAL, "train"))
        first = training.fire("a", key="k", reason="r")
        training.remove("a")
        (gone,) = training.events()
        assert gone.status is EventStatus.CANCELLED
        training.define(Trigger("a", Kind.MANUAL, "train"))
        assert training.fire("a", key="k", reason="r").id == first.id
        assert training.events()[0].status is EventStatus.CANCELLED

    def test_only_what_fits_passes(self, training):
        where = {"level": ["high", "critical"], "psi": {"min": 0.2}, "of.model": "delay"}
        training.define(Trigger("a", Kind.MANUAL, "train", where=where))
        fits = {"level": "high", "psi": 0.2, "of": {"model": "delay"}}
        assert training.fire("a", key="1", reason="r", data=fits) is not None
        for field, value in (
            ("level", "low"), ("psi", 0.1), ("psi", "1"), ("psi", True), ("psi", None), ("of", 1),
            ("of", {}),
        ):  # fmt: skip
            change = fits | {field: value}
            assert training.fire("a", key="2", reason="r", data=change) is None
        assert training.fire("a", key="2", reason="r") is None
        assert len(training.events()) == 1

    def test_what_can_not_be_taken_leaves_nothing(self, training):
        training.define(Trigger("a", Kind.MANUAL, "train", {"x": "${data.x}"}))
        with pytest.raises(InvalidInputError, match=r"refer to \$\{data.x\}, and .* data have: y"):
            training.fire("a", key="k", reason="r", data={"y": 1})
        with pytest.raises(InvalidInputError, match="must be JSON values"):
            training.fire("a", key="k", reason="r", data={"x": object()})
        with pytest.raises(InvalidInputError, match="needs a key"):
            training.fire("a", key="", reason="r")
        with pytest.raises(NotFoundError, match="there is: a"):
            training.fire("b", key="k", reason="r")
        training.define(dataclasses.replace(training.get("a"), enabled=False))
        with pytest.raises(ConflictError, match="is switched off; switch it on"):
            training.fire("a", key="k", reason="r", data={"x": 1})
        assert training.events() == []

    def test_what_is_announced_fires_all_that_wait_for_it(self, training):
        training.define(Trigger("a", Kind.ALERT, "train", source="drift-*"))
        training.define(Trigger("b", Kind.ALERT, "check", source="drift-delay"))
        training.define(Trigger("c", Kind.ALERT, "train", source="errors"))
        training.define(Trigger("d", Kind.ALERT, "train", source="*", enabled=False))
        training.define(Trigger("e", Kind.DATASET, "train", source="*"))
        training.define(Trigger("f", Kind.ALERT, "train", {"x": "${data.no}"}, source="drift-d*"))
        events = training.announce("alert", "drift-delay", key="1", reason="PSI 0.4")
        assert [(e.trigger, e.status) for e in events] == [
            ("a", "WAITING"), ("b", "WAITING"), ("f", "FAILED"),
        ]  # fmt: skip
        assert "refer to ${data.no}" in events[-1].error
        assert training.announce("alert", "drift-delay", key="1", reason="PSI 0.4") == events
        assert len(training.events()) == 3

    def test_a_burst_becomes_one_run(self, training):
        training.define(Trigger("a", Kind.MANUAL, "train", debounce_seconds=3600.0))
        first, *later = [training.fire("a", key=str(n), reason="r") for n in range(5)]
        assert first.due_us >= first.created_us + 3_600_000_000
        assert [e.status for e in later] == [EventStatus.MERGED] * 4
        assert {e.run_id for e in later} == {first.run_id}
        assert training.fire("a", key="3", reason="r") == later[2]
        (waiting,) = training.events(status=EventStatus.WAITING)
        assert (waiting.id, waiting.merged) == (first.id, 4)
        assert waiting.due_us >= first.due_us

    # -- webhooks --

    @pytest.fixture
    def hook(self, training, stack):
        """Delivers a body to the trigger `hook`, as its sender would."""
        stack.secrets.set("hook", "whsec_c2VjcmV0IG9mIHRoZSBob29r")
        training.define(Trigger("hook", Kind.WEBHOOK, "train", secret="hook"))

        def deliver(body, *, id="msg_1", age_seconds=0, secret=None, name="hook", **changes):
            time = now_us() // 1_000_000 - age_seconds
            secret = secret or "whsec_c2VjcmV0IG9mIHRoZSBob29r"
            headers = {
                "Webhook-Id": id,
                "Webhook-Timestamp": str(time),
                "Webhook-Signature": "v1,b2xk " + sign(secret, id, time, body),
            }
            return training.receive(name, headers | changes, body)

        return deliver

    def test_a_signed_webhook_is_an_event(self, hook):
        event = hook(b'{"rows": 3}')
        assert (event.key, event.data) == ("msg_1", {"rows": 3})
        assert hook(b"[1]", id="msg_2").data == {"body": [1]}
        assert hook(b"\xff", id="msg_3").data == {"body": "\\xff"}

    def test_a_replayed_webhook_starts_nothing(self, hook, training):
        first = hook(b"{}")
        assert hook(b"{}") == first
        assert len(training.events()) == 1
        with pytest.raises(ConflictError, match="'msg_1' was delivered before, with another body"):
            hook(b'{"other": 1}')
        assert len(training.events()) == 1

    def test_a_webhook_that_is_not_signed_right_is_refused(self, hook, training):
        wrong = "signature is not valid for this path"
        for changes in (
            {"secret": "another"},
            {"name": "nothing"},
            {"Webhook-Signature": ""},
            {"Webhook-Signature": "v1,"},
            {"Webhook-Signature": "v1a,é"},
            {"Webhook-Id": ""},
            {"Webhook-Id": "msg_2"},
            {"Webhook-Id": "x" * 300},
            {"Webhook-Timestamp": "soon"},
            {"Webhook-Timestamp": str(now_us() // 1_000_000 + 1)},
            {"Webhook-Timestamp": "²"},
            {"Webhook-Timestamp": "9" * 5000},
        ):
            with pytest.raises(AuthenticationError, match=wrong):
                hook(b"{}", **changes)
        for age in (301, -302):
            with pytest.raises(AuthenticationError, match="over 300 s from now"):
                hook(b"{}", age_seconds=age)
        assert training.events() == []

    def test_a_trigger_of_another_kind_takes_no_webhook(self, hook, training):
        training.define(Trigger("plain", Kind.MANUAL, "train"))
        for secret in ("hook", " "):
            with pytest.raises(AuthenticationError):
                hook(b"{}", name="plain", secret=secret)

    def test_a_secret_that_changed_counts_at_once(self, hook, stack):
        hook(b"{}")
        stack.secrets.set("hook", "the next one")
        with pytest.raises(AuthenticationError):
            hook(b"{}", id="msg_2")
        assert hook(b"{}", id="msg_2", secret="the next one").key == "msg_2"

    def test_the_secret_is_nowhere_in_the_ledger(self, hook, stack):
        hook(json.dumps({"a": 1}).encode())
        assert stack.ledger.lines(text="c2VjcmV0IG9mIHRoZSBob29r") == []
