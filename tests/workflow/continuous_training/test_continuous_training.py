"""The default engine by its contract, on both databases, and triggers in files."""

from __future__ import annotations

import pytest

import madang
from madang.errors import InvalidInputError
from madang.testing.continuous_training import ContinuousTrainingContract
from madang.workflow.continuous_training import Kind, Missed, Trigger, read


@pytest.fixture
def stack(tmp_path, request):
    toml = ""
    if getattr(request, "param", "sqlite") == "postgresql":
        toml = f'[stack]\nmetadata = "{request.getfixturevalue("postgresql_url")}"\n'
    madang.init(tmp_path, name="test")
    with (tmp_path / "madang.toml").open("a") as file:
        file.write(toml)
    with madang.open(tmp_path) as stack:
        yield stack


@pytest.mark.parametrize("stack", ["sqlite", "postgresql"], indirect=True)
class TestBuiltinContinuousTraining(ContinuousTrainingContract):
    @pytest.fixture
    def training(self, stack):
        return stack.continuous_training


def write(stack, name, text):
    (stack.root / "triggers" / name).write_text(text)


def test_triggers_stand_in_files(stack):
    write(
        stack,
        "nightly.yaml",
        "kind: schedule\npipeline: train\ncron: 30 2 * * *\nzone: Europe/Berlin\nmissed: all\n"
        "params: {day: '${due}'}\n",
    )
    write(stack, "a.yaml", "kind: pipeline\npipeline: report\nafter: [train, check]\n")
    assert read(stack.root) == [
        Trigger("a", Kind.PIPELINE, "report", after=("train", "check")),
        Trigger(
            "nightly", Kind.SCHEDULE, "train", {"day": "${due}"}, cron="30 2 * * *",
            zone="Europe/Berlin", missed=Missed.ALL,
        ),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: [", "can't be read"),
        ("- a\n", "needs fields such as kind and pipeline"),
        ("kind: manual\n", "missing required field `pipeline`"),
        ("kind: comet\npipeline: x\n", "Invalid enum value 'comet'"),
        ("kind: manual\npipeline: x\ncrom: 1\n", "unknown fields: crom; known are: after, cron"),
        ("kind: manual\npipeline: x\nmax_active: two\n", "Expected `int`, got `str`"),
        ("kind: manual\npipeline: x\nsource: y\n", "can't have the field source"),
    ],
)
def test_a_file_that_is_not_usable_is_named(stack, text, message):
    write(stack, "x.yaml", text)
    with pytest.raises(InvalidInputError, match=f"triggers/x.yaml.*{message}"):
        read(stack.root)


# -- a driven clock --------------------------------------------------------------------------------


def test_a_debounce_waits_for_quiet_but_not_for_ever(stack):
    training, now = stack.continuous_training, [0]
    training.clock = lambda: now[0]
    training.define(Trigger("a", Kind.MANUAL, "train", debounce_seconds=10.0))
    first = training.fire("a", key="0", reason="r")
    assert first.due_us == 10_000_000
    for second in range(5, 200, 5):
        now[0] = second * 1_000_000
        training.fire("a", key=str(second), reason="r")
    (waiting,) = training.events(status="WAITING")
    assert waiting.due_us == 100_000_000
    assert waiting.merged == 39
