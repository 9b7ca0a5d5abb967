"""The demo: from real events to a served model, and what it says of flights that it never saw.

    python demo/run.py [--keep]

January to March are replayed as events, ingested, turned into features, and a model is trained,
registered and served. Then April's flights are asked over HTTP and scored against what happened.
"""

import argparse
import json
import shutil
import signal
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "demo")]

import polars as pl  # noqa: E402
import pyarrow as pa  # noqa: E402
import replay  # noqa: E402
from figures import Clock, Memory, scores  # noqa: E402
from report import write_report  # noqa: E402

import madang  # noqa: E402
from madang.data.features import OnlineRow  # noqa: E402
from madang.deployment.serving import Arm  # noqa: E402
from madang.loop import ingest  # noqa: E402
from madang.server.supervisor import running  # noqa: E402

TOPICS = ("schedule", "arrivals", "weather")
APRIL = datetime(2013, 4, 1, 4, tzinfo=UTC)  # midnight in New York
MAY = datetime(2013, 5, 1, 4, tzinfo=UTC)
LIVE_HOURS = 24
RECENT = ("weather_now", "airport_now", "carrier_now", "route_now")  # the others change slowly
EVENT = pa.schema(
    [("key", pa.binary()), ("timestamp", pa.timestamp("us", "UTC")), ("value", pa.binary())]
)


def main() -> None:
    """Runs the demo and says what it did."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", action="store_true", help="keep everything running at the end")
    keep = parser.parse_args().keep
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that `kill` cleans up as well
    shutil.rmtree(ROOT / ".madang", ignore_errors=True)  # the state of an earlier demo
    clock, memory = Clock(), Memory()
    facts: dict = {}
    with madang.open(ROOT) as stack, memory, running(stack) as processes:
        stack.identity.first_admin()
        clock.say(f"madang is up: API {processes.url}, inference {processes.inference_url}")
        past, april = read_events(clock)
        collect(stack, past, clock, facts)
        past.clear()  # they are in the topics now
        train(stack, clock, facts)
        serve(stack, clock, facts)
        facts["live"] = live_day(stack, april, clock, facts)
        facts["april"] = rest_of_april(stack, april, clock, facts)
        facts["origin"] = tell_origin(stack, facts, clock)
        facts["memory_mb"] = memory.peak_mb
        clock.say(f"peak memory of all processes: {memory.peak_mb:.0f} MB (proportional set size)")
        page = write_report(ROOT / "report.html", facts, clock)
        clock.say(f"report: {page}")
        if keep:
            print(
                "everything keeps running until Ctrl-C; the admin's token is in",
                stack.home / "admin.token",
            )
            wait_for_ctrl_c()


def read_events(clock: Clock) -> tuple[dict, dict]:
    """The events until April, and those from then on, by topic."""
    events = {topic: replay.events(topic, months=4) for topic in TOPICS}
    replay.flights.cache_clear()
    past = {t: e.filter(pl.col("timestamp") < APRIL) for t, e in events.items()}
    later = {
        t: e.filter(pl.col("timestamp").is_between(APRIL, MAY, closed="left"))
        for t, e in events.items()
    }
    clock.say(f"read {sum(map(len, events.values())):,} real events of January to April 2013")
    return past, later


def append(stack: madang.Stack, events: dict) -> int:
    """Appends events in time order, a day at a time, as they would have come."""
    days = sorted({d for e in events.values() for d in e["timestamp"].dt.date().unique()})
    for day in days:
        for topic, table in events.items():
            part = table.filter(pl.col("timestamp").dt.date() == day)
            if len(part):
                stack.collection.append(topic, part.to_arrow().cast(EVENT))
    return sum(map(len, events.values()))


def collect(stack: madang.Stack, events: dict, clock: Clock, facts: dict) -> None:
    """Events into topics, through the data contracts into datasets."""
    for topic in TOPICS:
        stack.collection.create_topic(topic, partitions=2)
    began = time.perf_counter()
    count = append(stack, events)
    rate = count / (time.perf_counter() - began)
    clock.say(f"appended {count:,} events to 3 topics, each on disk ({rate:,.0f} events/s)")
    facts["quarantine"] = {}
    for topic in TOPICS:
        done = ingest(stack, topic)
        facts["quarantine"][topic] = {
            "events": done.events,
            "valid": done.valid,
            "reasons": dict(done.reasons),
        }
        reasons = "; ".join(f"{n:,} × {why}" for why, n in done.reasons.items()) or "none"
        clock.say(
            f"dataset {topic}: {done.valid:,} rows; quarantined {done.quarantined:,}: {reasons}"
        )


def train(stack: madang.Stack, clock: Clock, facts: dict) -> None:
    """The project's own pipeline, from datasets to a registered model version."""
    from pipelines.train import train as pipeline

    views = stack.features.load_definitions()
    clock.say(f"{len(views)} feature views: {', '.join(views)}")
    run = pipeline.run(stack, start=date(2013, 1, 1), end=date(2013, 4, 1))
    for step in run.steps:
        clock.say(f"  step {step.name}: {(step.ended_us - step.started_us) / 1e6:.1f} s")
    metrics = stack.pipelines.load(run.results["metrics"])
    facts["run"], facts["code"], facts["validation"] = run.id, run.code, metrics
    shown = ", ".join(f"{key} {metrics[key]:.3f}" for key in ("auc", "log_loss", "brier"))
    clock.say(
        f"run {run.id[:12]}: fitted before 16 March, on later March flights, which also chose its parameters: {shown}"
    )


def serve(stack: madang.Stack, clock: Clock, facts: dict) -> None:
    """The challenger becomes the champion and answers at the endpoint `delay`."""
    version = stack.registry.get("delay", "challenger")
    stack.registry.set_alias("delay", "champion", version.version)
    endpoint = stack.serving.deploy("delay", [Arm("delay", version.version)])
    facts["model"], facts["endpoint"] = version.ref, f"endpoint:delay@{endpoint.revision}"
    clock.say(
        f"{version.ref} ({version.format}) is served at {stack.serving.url()}/v2/models/delay"
    )


def live_day(stack: madang.Stack, april: dict, clock: Clock, facts: dict) -> dict:
    """1 April hour by hour: events come in, features go online, each flight is asked by itself."""
    from features.flights import VIEWS
    from pipelines.train import matrix

    asked, took = [], []
    for hour in range(LIVE_HOURS):
        now = APRIL + timedelta(hours=hour)
        flights = due(april["schedule"], now, now + timedelta(hours=1))
        if len(flights):
            for view in VIEWS if not asked else RECENT:
                stack.features.materialize(view, until=now)
            rows = stack.features.read(VIEWS, flights.to_dicts(), now=now)
            inputs = matrix(with_features(flights, rows))
            for index in range(len(flights)):
                began = time.perf_counter()
                answer = stack.serving.predict("delay", inputs.slice(index, 1))
                took.append(time.perf_counter() - began)
                if not asked:
                    facts["first_prediction_s"] = clock.seconds
                    clock.say(f"FIRST PREDICTION over HTTP, {clock.seconds:.1f} s after the start")
                asked.append(
                    (flights["id"][index], float(answer["predict_proba"][0][1]), answer["id"])
                )
        append_hour(stack, april, now)
    facts["prediction_id"] = asked[0][2]
    result = compare(stack, asked, facts)
    p50 = sorted(took)[len(took) // 2] * 1000
    clock.say(
        f"1 April live: {len(asked)} flights asked one by one ({p50:.2f} ms p50), {told(result)}"
    )
    return {**result, "asked": len(asked), "p50_ms": p50}


def rest_of_april(stack: madang.Stack, april: dict, clock: Clock, facts: dict) -> dict:
    """The other days in batches of a day, with features as of each flight's departure."""
    from features.flights import VIEWS
    from pipelines.train import matrix

    first = APRIL + timedelta(hours=LIVE_HOURS)
    append(stack, {t: e.filter(pl.col("timestamp") >= first) for t, e in april.items()})
    for topic in TOPICS:
        ingest(stack, topic)
    flights = due(april["schedule"], first, MAY)
    table = pl.DataFrame(stack.features.training_set(flights, VIEWS, timestamp="sched_dep"))
    asked, began = [], time.perf_counter()
    for _, day in table.group_by(pl.col("sched_dep").dt.date(), maintain_order=True):
        answer = stack.serving.predict("delay", matrix(day))
        asked += zip(
            day["id"],
            answer["predict_proba"][:, 1].tolist(),
            [answer["id"]] * len(day),
            strict=True,
        )
    seconds = time.perf_counter() - began
    result = compare(stack, asked, facts)
    clock.say(
        f"rest of April: {len(asked):,} flights asked in batches of a day ({len(asked) / seconds:,.0f}/s), {told(result)}"
    )
    return {**result, "asked": len(asked)}


def due(schedule: pl.DataFrame, start: datetime, end: datetime) -> pl.DataFrame:
    """The flights that depart in a span, with what is known of them by themselves."""
    part = schedule.filter(pl.col("timestamp").is_between(start, end, closed="left"))
    if not len(part):
        return part
    rows = pl.from_dicts([json.loads(value) for value in part["value"]], infer_schema_length=None)
    departure = pl.col("sched_dep").str.to_datetime(time_zone="UTC", time_unit="us")
    return rows.with_columns(sched_dep=departure).select(
        "id", "sched_dep", "origin", "dest", "carrier", "distance", "duration",
        hour=pl.col("sched_dep").dt.hour(),
        weekday=pl.col("sched_dep").dt.weekday() % 7,  # DuckDB's dayofweek: Sunday is 0
    )  # fmt: skip


def with_features(flights: pl.DataFrame, rows: list[OnlineRow]) -> pl.DataFrame:
    """Flights with their online features."""
    values = pl.from_dicts([dict(row.values) for row in rows], infer_schema_length=None)
    return flights.hstack(values.cast(pl.Float64))


def append_hour(stack: madang.Stack, april: dict, now: datetime) -> None:
    """What became known in the hour after `now` goes into the topics and datasets."""
    for topic in TOPICS:
        within = pl.col("timestamp").is_between(now, now + timedelta(hours=1), closed="left")
        part = april[topic].filter(within)
        if len(part):
            stack.collection.append(topic, part.to_arrow().cast(EVENT))
            ingest(stack, topic)


def compare(stack: madang.Stack, asked: list, facts: dict) -> dict:
    """Predictions against what happened; flights that never arrived are left out."""
    predicted = pl.DataFrame(asked, schema=["id", "probability", "prediction"], orient="row")
    happened = stack.processing.query(
        "SELECT id, sched_dep, arr_delay > 15 AS late FROM arrivals JOIN predicted USING (id)",
        tables={"predicted": predicted.to_arrow()},
    )
    joined = predicted.join(pl.DataFrame(happened), on="id")
    return scores(joined, facts["validation"]["base_rate"])


def told(result: dict) -> str:
    """One line of figures."""
    low, high = result["auc_interval"]
    return (
        f"{result['late_rate']:.1%} were late, {result['mean_probability']:.1%} predicted; "
        f"AUC {result['auc']:.3f} (95 %: {low:.3f} to {high:.3f}), Brier {result['brier']:.4f} "
        f"against {result['brier_of_rate']:.4f} for always saying late March's rate"
    )


def tell_origin(stack: madang.Stack, facts: dict, clock: Clock) -> list:
    """What the model at the endpoint was made from, and that the record is whole."""
    found = stack.ledger.origin(facts["endpoint"])
    lines = [(line.seq, line.kind, line.subject, len(line.inputs)) for line in found]
    datasets = sorted({ref for line in found for ref in line.inputs if ref.startswith("dataset:")})
    checked = stack.ledger.verify()
    clock.say(
        f"{facts['endpoint']} comes from {facts['model']}, run {facts['run'][:12]}, {facts['code'][:20]}, "
        f"{', '.join(datasets)}: {len(lines)} lines of the ledger"
    )
    clock.say(f"ledger: {checked.lines} lines, {'unbroken' if checked.ok else checked.problem}")
    return lines


def wait_for_ctrl_c() -> None:
    """Sleeps until the user has seen enough."""
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print("stopping")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped")
