"""Policy decisions: the embedded engine beside OPA's server, and pycasbin, in one run.

The packaged rules with a promotion's input, and 1,000 rules more in the same package. OPA is the
server that `.ci/servers/opa.sh` builds, by the adapter `opa://`, so with HTTP on loopback; OPA's own
time is what it says of itself (`timer_rego_query_eval_ns`). pycasbin is in an environment of its own;
it has no packaged rules, so it decides an equal number of its own ones.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import peer_environments
from tests.servers import opa as servers

from madang.engines import Context
from madang.security.policy import Bundle, PolicyEngine, connect
from madang.security.policy.bundle import read_bundle

ROUNDS = 2000

INPUT = {
    "subject": "model:late/champion=2",
    "who": {"actor": "user:ann", "name": "ann", "roles": ["operator"]},
    "object": {"ref": "model:late@2", "model": "late", "alias": "champion", "version": 2,
               "previous": 1, "tags": {}},
    "evaluation": {
        "metrics": {f"metric{n}": n / 10 for n in range(12)},
        "compared_with": "model:late@1",
        "comparison": {
            "metric": "auc", "not_worse": True, "verdict": "better", "challenger": 0.71,
            "champion": 0.7,
            "slices": [{"name": f"carrier = C{n}", "rows": 900, "verdict": "no difference",
                        "challenger": 0.7, "champion": 0.7} for n in range(16)],
        },
    },
    "datasets": [{"ref": f"dataset:d{n}@1", "outcome": "valid"} for n in range(3)],
    "approvals": [],
}  # fmt: skip

RULE = """
deny contains {{"rule": "team{n}", "message": message}} if {{
	input.object.alias == "champion"
	input.object.model == "model{n}"
	not "team{n}" in input.who.roles
	message := sprintf("model{n} is the team's, not %s's", [input.who.name])
}}
"""

CASBIN = """
import json, sys, tempfile, time
import casbin

model = "[request_definition]\\nr = sub, obj, act\\n[policy_definition]\\np = sub, obj, act\\n" \\
    "[policy_effect]\\ne = some(where (p.eft == allow))\\n" \\
    "[matchers]\\nm = r.sub == p.sub && r.obj == p.obj && r.act == p.act\\n"
count, rounds = int(sys.argv[1]), int(sys.argv[2])
with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
    file.write(model)
    file.flush()
    enforcer = casbin.Enforcer(file.name)
enforcer.add_policies([[f"team{n}", f"model{n}", "promote"] for n in range(count)])
took = []
for _ in range(rounds):
    began = time.perf_counter()
    enforcer.enforce("ann", "late", "promote")
    took.append(time.perf_counter() - began)
print(json.dumps(took))
"""


def bundles(root: Path) -> dict[str, Bundle]:
    """The packaged rules alone, and with 1,000 more."""
    small = read_bundle(root)
    more = "package madang.promotion\n" + "".join(RULE.format(n=n) for n in range(1000))
    return {
        "packaged rules": small,
        "1,000 rules more": Bundle({**small.files, "policies/teams.rego": more}, small.data),
    }


def timed(engine: PolicyEngine, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    assert engine.decide("promotion", INPUT).allow
    took = []
    for _ in range(ROUNDS):
        began = clock()
        engine.decide("promotion", INPUT)
        took.append(clock() - began)
    return took


def show(who: str, what: str, took: list[float]) -> float:
    ordered = sorted(took)
    middle, high = ordered[len(took) // 2], ordered[len(took) * 99 // 100]
    print(f"{who:18} {what:18} p50 {middle * 1e6:8.0f} µs   p99 {high * 1e6:8.0f} µs", flush=True)
    return middle


def opa_itself(binary: Path, folder: Path, bundle: Bundle) -> None:
    """What OPA's own benchmark says, without HTTP."""
    for name, text in bundle.files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (folder / "data.json").write_text(json.dumps(bundle.data))
    (folder / "input.json").write_text(json.dumps(INPUT))
    files = [part for name in bundle.files for part in ("--data", folder / name)]
    command = [binary, "bench", "--format=json", "--benchmem=false", "--data", folder / "data.json",
               *files, "--input", folder / "input.json", "data.madang.promotion.decision"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    mean = found["T"] / found["N"] / 1000
    print(f"{'OPA, in process':18} {'':18} mean {mean:7.0f} µs (opa bench)", flush=True)


def main() -> None:
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        server = servers.Server(servers.folder() / "opa", home)
        context = Context("bench", home)
        with server.running():
            for what, bundle in bundles(home).items():
                ours, theirs = connect(None, context), connect(server.url, context)
                began = time.perf_counter()
                ours.load(bundle)
                print(f"\n{what}: loaded in {(time.perf_counter() - began) * 1000:.0f} ms")
                theirs.load(bundle)
                mine = show("embedded", what, timed(ours))
                # Without what others took of the processor meanwhile:
                show("embedded, CPU", what, timed(ours, time.thread_time))
                other = show("opa:// (HTTP)", what, timed(theirs))
                opa_itself(servers.folder() / "opa", home / what.replace(" ", "-"), bundle)
                ratios.append((what, other / mine))
                theirs.close()
    python = peer_environments.python("casbin", build=True)
    for count in (20, 1000):
        command = [python, "-c", CASBIN, str(count), "300"]
        took = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        show("pycasbin", f"{count:,} of its rules", took)
    for what, ratio in ratios:
        print(f"{what}: the embedded engine takes 1/{ratio:.0f} of a decision by opa://")


if __name__ == "__main__":
    main()
