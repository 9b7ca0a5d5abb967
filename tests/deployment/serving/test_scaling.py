"""How many workers there are follows how long requests wait: the decision, simulated, and for real."""

from __future__ import annotations

import math
import os
import threading

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings
from tests.deployment.serving.conftest import Server, make_project
from tests.deployment.serving.test_workers import grows, load

from madang.deployment.serving import Arm
from madang.deployment.serving._metrics import Snapshot, read_snapshot
from madang.deployment.serving._scaling import Meter, Sample, Scaling, decide, mean_wait
from madang.deployment.serving.workers import Workers
from madang.testing.serving import register, until

SCALING = Scaling(1, 4, target_seconds=0.005, hot_seconds=3, calm_seconds=30)


def sample(moment, *, waited=0.0, requests=100, cores=0.0, seconds=0.5):
    return Sample(moment, seconds, requests, waited * requests, cores * seconds)


def samples(until_moment, **measured):
    """Samples that are all alike, each half second since 0."""
    return [sample(half / 2, **measured) for half in range(1, int(until_moment * 2) + 1)]


def test_waiting_requests_ask_for_a_worker_after_the_time_of_an_average():
    assert decide(SCALING, 1, samples(2.5, waited=0.02), 0) == 0
    assert decide(SCALING, 1, samples(3, waited=0.02), 0) == 1
    assert decide(SCALING, 4, samples(3, waited=0.02), 0) == 0
    assert decide(SCALING, 2, samples(3, waited=0.004), 0) == 0


def test_what_was_before_a_change_does_not_count():
    hot = samples(10, waited=0.02)
    assert decide(SCALING, 2, hot, changed=8) == 0
    assert decide(SCALING, 2, hot, changed=7) == 1


def test_a_worker_leaves_after_a_calm_time_if_the_others_can_take_its_work():
    assert decide(SCALING, 2, samples(29.5), 0) == 0
    assert decide(SCALING, 2, samples(30), 0) == -1
    assert decide(SCALING, 1, samples(300), 0) == 0
    assert decide(SCALING, 2, samples(30, waited=0.003), 0) == 0
    assert decide(SCALING, 2, samples(30, waited=0.0001, cores=0.69), 0) == -1
    assert decide(SCALING, 2, samples(30, waited=0.0001, cores=0.71), 0) == 0
    assert decide(SCALING, 3, samples(30, waited=0.0001, cores=1.39), 0) == -1
    # Where the others would wait for too long: at 60 % of one core, 3.5 times as long as at 30 %.
    assert decide(SCALING, 2, samples(30, waited=0.0006, cores=0.6), 0) == -1
    assert decide(SCALING, 2, samples(30, waited=0.0008, cores=0.6), 0) == 0


def test_a_time_of_waiting_keeps_a_worker():
    found = samples(60)
    found[-20:-10] = [sample(each.moment, waited=0.01) for each in found[-20:-10]]
    assert decide(SCALING, 2, found, 0) == 0


def test_a_load_that_rises_is_not_taken_for_its_average():
    rising = samples(15, cores=0.3) + [sample(15 + i / 2, cores=0.9) for i in range(1, 31)]
    assert decide(SCALING, 2, rising, 0) == 0


def test_the_mean_is_over_requests():
    assert mean_wait([]) == 0
    assert (
        mean_wait([sample(1, waited=1.0, requests=1), sample(2, waited=0.0, requests=99)]) == 0.01
    )


@given(
    count=st.integers(0, 8),
    least=st.integers(1, 4),
    more=st.integers(0, 4),
    waits=st.lists(st.floats(0, 1), max_size=80),
    cores=st.floats(0, 8),
    changed=st.floats(0, 50),
)
def test_the_bounds_hold_whatever_was_measured(count, least, more, waits, cores, changed):
    scaling = Scaling(least, least + more)
    found = [sample(i / 2, waited=w, cores=cores) for i, w in enumerate(waits, 1)]
    by = decide(scaling, count, found, changed)
    assert by in (-1, 0, 1)
    if scaling.least <= count <= scaling.most:
        assert scaling.least <= count + by <= scaling.most
    assert by == decide(scaling, count, found, changed)


class Simulation:
    """Requests at a rate, each of which takes some processor time: waiting as in an M/D/1 queue."""

    def __init__(self, scaling, cost_seconds=0.01):
        self.scaling, self.cost = scaling, cost_seconds
        self.count, self.moment, self.changed = scaling.least, 0.0, 0.0
        self.samples, self.queued, self.history = [], 0.0, []

    def run(self, seconds, rate):
        for _ in range(int(seconds * 2)):
            self.moment += 0.5
            load = rate * self.cost
            self.queued = max(0.0, self.queued + (load - self.count) * 0.5)
            share = min(load / self.count, 0.98)
            waited = self.queued / self.count + self.cost * share / (2 * (1 - share))
            done = min(load, self.count) / self.cost * 0.5
            busy = min(load, self.count) * 0.5
            self.samples.append(Sample(self.moment, 0.5, int(done), waited * int(done), busy))
            by = decide(self.scaling, self.count, self.samples[-80:], self.changed)
            if by:
                self.count += by
                self.changed = self.moment
                self.history.append((self.moment, self.count))


@pytest.mark.parametrize(("rate", "workers"), [(20, 1), (150, 2), (250, 3), (1000, 4)])
def test_a_steady_load_gets_its_workers_and_keeps_them(rate, workers):
    simulated = Simulation(SCALING)
    simulated.run(120, rate)
    assert simulated.count >= workers
    settled = len(simulated.history)
    simulated.run(600, rate)
    assert len(simulated.history) == settled, simulated.history
    if rate == 20:
        assert simulated.count == 1


@settings(deadline=None)
@given(rate=st.floats(1, 390))
def test_no_steady_load_makes_the_number_swing(rate):
    simulated = Simulation(SCALING)
    simulated.run(900, rate)
    downs = [
        after
        for (_, before), (_, after) in zip(simulated.history, simulated.history[1:], strict=False)
        if after < before
    ]
    # Down once or twice after the queue of the beginning was worked off; then it stays.
    assert len(downs) <= 3, simulated.history
    assert all(moment < 300 for moment, _ in simulated.history), simulated.history
    assert simulated.count >= math.ceil(rate * 0.01 - 1e-9)


def test_a_peak_brings_workers_and_its_end_takes_them_away():
    simulated = Simulation(SCALING)
    simulated.run(60, 20)
    simulated.run(60, 350)
    assert simulated.count == 4
    simulated.run(200, 20)
    assert simulated.count == 1


def test_a_meter_adds_up_what_workers_did_since(tmp_path):
    def write(pid, requests, waited):
        snapshot = Snapshot()
        counters = snapshot.of("e", "1")
        counters.requests, counters.waited_seconds = requests, waited
        (tmp_path / f"{pid}.json").write_bytes(msgspec.json.encode(snapshot))

    first, own, meter = os.getppid(), os.getpid(), Meter(tmp_path, 30)
    write(first, 100, 1.0)
    meter.measure([first], 10.0)
    assert list(meter.samples) == []
    write(first, 160, 1.5)
    write(own, 40, 0.5)  # a worker that was added: all that it did is new
    meter.measure([first, own], 11.0)
    (found,) = meter.samples
    assert (found.moment, found.seconds, found.requests, found.waited_seconds) == (11, 1, 100, 1.0)
    assert found.busy_seconds >= 0.1
    meter.measure([own], 12.0)  # and the other one left
    assert (meter.samples[-1].requests, meter.samples[-1].waited_seconds) == (0, 0.0)
    meter.measure([own], 100.0)
    assert [each.moment for each in meter.samples] == [100.0]


def test_under_load_a_worker_comes_and_afterwards_it_leaves_and_no_request_is_lost(tmp_path):
    with make_project(tmp_path) as stack:
        register(stack, "sums", 1.0)
        stack.serving.deploy("sums", [Arm("sums", 1)])
        # Any wait at all is too much, so that the load of this test is enough.
        scaling = Scaling(1, 2, target_seconds=1e-5, hot_seconds=1, calm_seconds=2)
        with Workers(stack.home, port=0, scaling=scaling) as workers:
            server = Server(stack, workers)
            first = workers.pids()
            stop = threading.Event()

            def tend():
                while not stop.wait(0.05):
                    workers.tend()

            tending = threading.Thread(target=tend)
            tending.start()
            try:
                with load(server, count=4) as (answers, failures):
                    until(lambda: len(server.files.live_acks()) == 2)
                    before = len(answers)
                    until(lambda: len(answers) > before + 200)
                    pids = [ack.pid for ack in server.files.live_acks()]
                    # Kept connections move: the new worker answers too.
                    new = server.files.metrics / f"{max(set(pids) - set(first))}.json"
                    until(lambda: new.exists() and bool(read_snapshot(new).versions))
                    until(lambda: read_snapshot(new).of("sums", "1").predictions > 0)
                    text = server.ask("GET", "/metrics").body.decode()
                    assert "madang_workers 2\n" in text
                    assert 'madang_worker_scalings_total{direction="up"} 1\n' in text
                    assert 'madang_prediction_queue_seconds_count{endpoint="sums"' in text
                    grows(answers)
                with load(server, count=1) as (few, failures_of_few):
                    scaling_down = lambda: [a.pid for a in server.files.live_acks()] == first  # noqa: E731
                    workers._scaling = Scaling(
                        1, 2, target_seconds=1, hot_seconds=1, calm_seconds=2
                    )
                    until(scaling_down)
                    grows(few)
                assert failures == failures_of_few == []
                text = server.ask("GET", "/metrics").body.decode()
                assert "madang_workers 1\n" in text
                assert 'madang_worker_scalings_total{direction="down"} 1\n' in text
            finally:
                stop.set()
                tending.join()
