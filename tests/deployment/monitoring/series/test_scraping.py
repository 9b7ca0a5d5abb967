from __future__ import annotations

import logging
import math
import subprocess

import msgspec
import pytest
from tests.servers.prometheus import program

from madang.deployment.monitoring.series import Matcher, scraping
from madang.deployment.monitoring.series.local import LocalSeries
from madang.deployment.monitoring.series.promql import parse
from madang.deployment.serving._metrics import Snapshot
from madang.testing.series import samples


def counted(folder, predictions):
    snapshot = Snapshot()
    for _ in range(predictions):
        snapshot.of("delay", "3").observe(0.003, 1)
    snapshot.error("delay", "3", 500, 0.1)
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "1.json").write_bytes(msgspec.json.encode(snapshot))


def test_what_workers_count_can_be_asked_for(stack, tmp_path):
    folder = stack.home / "serving" / "metrics"
    store = LocalSeries(tmp_path / "series")
    sources = scraping.sources_of(stack)
    assert [source.name for source in sources] == ["control", "inference"]
    for tick in range(5):
        counted(folder, 10 * (tick + 1))
        scraping.scrape(store, sources, tick * 15_000)

    def ask(text):
        return parse(text).at(store, 60_000)

    labels = (("endpoint", "delay"), ("job", "inference"), ("model_version", "3"))
    assert ask("increase(madang_predictions_total[1m])") == {labels: pytest.approx(40)}
    assert ask("madang_prediction_errors_total") == {
        (("__name__", "madang_prediction_errors_total"), *labels, ("status", "500")): 1
    }
    found = ask("histogram_quantile(0.5, rate(madang_prediction_seconds_bucket[1m]))")
    assert 0.002 < found[labels] <= 0.005
    assert list(ask("process_resident_memory_bytes > 1e6")) != []
    assert list(ask("up").values()) == [1, 1]


def test_a_source_that_fails_is_down_and_the_others_are_not(tmp_path, caplog):
    class Broken:
        name = "broken"

        def samples(self):
            raise OSError("no such thing")

    store = LocalSeries(tmp_path)
    with caplog.at_level(logging.ERROR):
        scraping.scrape(store, [Broken(), scraping.ControlSource()], 1000)
    found = store.select([Matcher("__name__", "=", "up")], 0, 1000)
    assert [(dict(s.labels)["job"], s.values.tolist()) for s in found] == [
        ("broken", [0.0]), ("control", [1.0]),
    ]  # fmt: skip
    assert "the metrics of broken could not be read" in caplog.text


def test_special_values_and_escapes_are_read():
    text = 'x{a="q\\"\\n\\\\"} NaN\ny +Inf\n'
    found = scraping.exposed(text, 5).to_pylist()
    assert found[0]["labels"] == [("a", 'q"\n\\')]
    assert math.isnan(found[0]["value"])
    assert found[1]["value"] == math.inf


def test_promtool_takes_our_metrics(stack):
    counted(stack.home / "serving" / "metrics", 3)
    for source in scraping.sources_of(stack):
        done = subprocess.run(
            [program("promtool"), "check", "metrics"], input=source.text(), text=True,
            capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_only_what_is_new_or_differs_is_appended_again(tmp_path):
    store = LocalSeries(tmp_path)
    rows = [("psi", {"column": c, "none": ""}, t, t + 0.5) for c in "ab" for t in (10, 20)]
    rows.append(("psi", {"column": "c"}, 10, math.nan))
    assert scraping.append_new(store, samples(*rows)) == 5
    assert scraping.append_new(store, samples(*rows)) == 0
    rows[0] = ("psi", {"column": "a"}, 10, 7)
    rows.append(("auc", {}, 20, 1))
    assert scraping.append_new(store, samples(*rows)) == 2
    assert scraping.append_new(LocalSeries(tmp_path), samples(*rows)) == 0
    assert scraping.append_new(store, samples()) == 0
    found = store.select([Matcher("column", "=", "a")], 0, 100)
    assert found[0].values.tolist() == [7, 20.5]
