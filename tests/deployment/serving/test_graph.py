"""What stands behind an endpoint: graphs of models, transformers, joined features, explanations."""

from __future__ import annotations

import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier
from tests.deployment.serving.conftest import Server, make_project, tensor

from madang.data.features import FeatureView
from madang.deployment.serving import (
    Arm,
    Chain,
    Ensemble,
    FeatureJoin,
    ModelRef,
    Transformer,
)
from madang.deployment.serving._arms import graph_from
from madang.development.experiments import TensorSpec
from madang.errors import InvalidInputError, NotFoundError, UnavailableError
from madang.testing.serving import logged, register, until

pytestmark = pytest.mark.filterwarnings("ignore:.*function will be dep:PendingDeprecationWarning")

ROWS = np.random.default_rng(0).normal(size=(200, 3))
LABELS = np.where(ROWS[:, 0] + ROWS[:, 1] * ROWS[:, 2] > 0, "late", "on time")
T0 = datetime(2026, 1, 1, tzinfo=UTC)

TRANSFORMERS = """
import numpy as np
from madang.errors import InvalidInputError

def doubled(inputs):
    return {"input": inputs["input"] * 2}

def from_texts(inputs):
    rows = [[float(word) for word in text.split()] for text in inputs["text"].tolist()]
    return {"input": np.array(rows)}

def as_words(outputs):
    return {"answer": np.where(outputs["predict"] > 0, "up", "down")}

def raises(inputs):
    return {"input": inputs["input"] / [][0]}

def refuses(inputs):
    raise InvalidInputError("negative sizes are none")

def leaves(inputs):
    raise SystemExit(3)

def writes(inputs):
    inputs["input"][:] = 0
    return inputs

def halves(inputs):
    return {"input": inputs["input"][::2][:1].repeat(1, axis=0)[:0]}

def one_row(inputs):
    return {"input": inputs["input"][:1]}

def of_texts(inputs):
    return {"input": inputs["input"].astype(str)}

def nothing(inputs):
    return None
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with make_project(tmp_path_factory.mktemp("graphs")) as stack:
        folder = stack.root / "transformers"
        folder.mkdir()
        (folder / "some.py").write_text(TRANSFORMERS)
        register(stack, "sums", 1.0)
        register(stack, "sums", 2.0)
        models = {
            "linear": LogisticRegression(),
            "bayes": GaussianNB(),
            "boosted": HistGradientBoostingClassifier(max_iter=10),
            "tree": DecisionTreeClassifier(max_depth=3, random_state=0),
        }
        for name, model in models.items():
            stack.registry.register(name, model.fit(ROWS, LABELS), example=ROWS[:20])
        stacked = np.column_stack([m.predict_proba(ROWS)[:, 1] for m in list(models.values())[:2]])
        final = LogisticRegression().fit(stacked, LABELS)
        stack.registry.register("final", final, example=stacked[:20])
        after = LinearRegression().fit([[0.0], [1.0]], [10.0, 13.0])
        stack.registry.register("after", after, example=np.array([[0.0], [1.0]]))
        with stack.serving.workers() as workers:
            yield Server(stack, workers)


def ref(name, version=1):
    return ModelRef(name, version)


def loaded(server, name, rows=ROWS[:5], version=1):
    return server.stack.registry.load(name, version).predict({"input": rows})


def deploy(server, name, **arm):
    return server.stack.serving.deploy(name, [Arm(arm.pop("model", "sums"), 1, **arm)])


def deployed(server, name):
    """The ledger's line of an endpoint's last deploy."""
    lines = server.stack.ledger.lines(kind="endpoint.deploy")
    return next(line for line in lines if line.subject == f"endpoint:{name}")


# -- graphs -----------------------------------------------------------------------------------


def test_the_mean_of_probabilities_and_its_label(server):
    graph = Ensemble((ref("linear"), ref("bayes")), weights=(3, 1))
    made = deploy(server, "mean", model="both", graph=graph)
    assert made.arms[0].graph == graph
    assert server.stack.serving.get("mean") == made

    answer = server.stack.serving.predict("mean", ROWS[:5])

    one, other = (loaded(server, name)["predict_proba"] for name in ("linear", "bayes"))
    np.testing.assert_allclose(answer["predict_proba"], 0.75 * one + 0.25 * other)
    labels = np.array(["late", "on time"])
    assert answer["predict"].tolist() == labels[answer["predict_proba"].argmax(axis=1)].tolist()


def test_a_vote_takes_the_label_of_most(server):
    names = ("linear", "bayes", "tree")
    deploy(server, "vote", model="v", graph=Ensemble(tuple(map(ref, names)), "vote"))

    answer = server.stack.serving.predict("vote", ROWS[:50])["predict"]

    found = np.stack([loaded(server, name, ROWS[:50])["predict"] for name in names])
    expected = np.where((found == "late").sum(axis=0) >= 2, "late", "on time")
    assert answer.tolist() == expected.tolist()
    assert len({*map(tuple, found.T)}) > 2  # they do differ


def test_a_stack_within_a_chain_goes_through_once(server):
    stacked = Ensemble((ref("linear"), ref("bayes")), "stack", final=ref("final"))
    deploy(server, "stack", model="s", graph=stacked)

    answer = server.stack.serving.predict("stack", ROWS[:5])

    columns = [loaded(server, name)["predict_proba"][:, 1] for name in ("linear", "bayes")]
    expected = loaded(server, "final", np.column_stack(columns))["predict_proba"]
    np.testing.assert_allclose(answer["predict_proba"], expected)

    chain = Chain((Ensemble((ref("sums"), ref("sums", 2))), ref("after")))
    deploy(server, "chain", model="c", graph=chain)
    got = server.stack.serving.predict("chain", ROWS[:5])["predict"]
    np.testing.assert_allclose(got, 10 + 3 * 1.5 * ROWS[:5].sum(axis=1))
    described = server.ask("GET", "/v2/models/chain").json
    assert described["inputs"] == [{"name": "input", "datatype": "FP64", "shape": [-1, 3]}]


def test_a_graph_is_in_the_ledger_with_all_its_models_and_in_the_log(server):
    graph = Ensemble((ref("sums"), ref("sums", 2)))
    deploy(server, "ledgered", model="pair", graph=graph)

    line = deployed(server, "ledgered")
    assert set(line.inputs) == {"model:sums@1", "model:sums@2"}
    server.stack.serving.predict("ledgered", ROWS[:1])
    (event,) = logged(server.stack, "ledgered", 1)
    assert (event["model"], event["version"]) == ("pair", 1)
    assert event["models"] == ["sums@1", "sums@2"]


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (Chain((ref("linear"), ref("after"))), r"chain\[1\] \(after@1\): input input .*no 'input'"),
        (
            Chain((ref("linear"), ref("after")), ({"input": "predict"},)),
            r"'predict' is predict \(BYTES \[-1\]\)",
        ),
        (
            Chain((ref("linear"), ref("after")), ({"input": "predict_proba"},)),
            r"does not fit what linear@1 gives: .*FP64 \[-1, 2\]",
        ),
        (Chain((ref("sums"), ref("after")), ({"rows": "predict"},)), "has no input 'rows'"),
        (Chain((ref("sums"),), ({}, {})), "1 steps and 2 maps"),
        (Ensemble((ref("sums"),)), "at least two members"),
        (Ensemble((ref("sums"), ref("after"))), r"after@1 takes input \(FP64 \[-1, 1\]\)"),
        (Ensemble((ref("sums"), ref("linear"))), "linear@1 gives predict .*combine labels by vote"),
        (Ensemble((ref("sums"), ref("linear")), "vote"), "a vote needs equal labels"),
        (Ensemble((ref("sums"), ref("sums", 2)), weights=(1,)), "one weight of 0 or more"),
        (Ensemble((ref("sums"), ref("sums", 2)), "stack"), "final belongs to"),
        (
            Ensemble((ref("linear"), ref("bayes"), ref("tree")), "stack", final=ref("final")),
            "final@1 takes .*give 3 columns",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_at_the_deploy(server, graph, message):
    with pytest.raises(InvalidInputError, match=message):
        deploy(server, "unfit", model="x", graph=graph)
    with pytest.raises(NotFoundError):
        server.stack.serving.get("unfit")


def test_an_unknown_model_in_a_graph_is_named(server):
    with pytest.raises(NotFoundError, match="nobody"):
        deploy(server, "unfit", model="x", graph=Ensemble((ref("sums"), ref("nobody"))))


# -- transformers -----------------------------------------------------------------------------


def some(function, *tensors):
    return Transformer(f"transformers/some.py:{function}", tensors)


def test_transformers_before_and_after_have_their_own_tensors(server):
    deploy(
        server,
        "words",
        before=some("from_texts", TensorSpec("text", "BYTES", (-1,))),
        after=some("as_words", TensorSpec("answer", "BYTES", (-1,))),
    )

    described = server.ask("GET", "/v2/models/words").json
    assert described["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert described["outputs"] == [{"name": "answer", "datatype": "BYTES", "shape": [-1]}]
    answer = server.stack.serving.predict("words", {"text": np.array(["1 2 3", "-1 -2 -3"])})
    assert answer["answer"].tolist() == ["up", "down"]
    assert server.stack.serving.get("words").arms[0].before.tensors[0].name == "text"


def test_a_later_edit_counts_from_the_next_deploy_on(server):
    file = server.stack.root / "transformers" / "edited.py"
    file.write_text("def f(inputs):\n    return {'input': inputs['input'] + 1}\n")
    deploy(server, "edited", before=Transformer("transformers/edited.py:f"))
    line = deployed(server, "edited")
    first = line.data["transformers"]["transformers/edited.py:f"]
    file.write_text("def f(inputs):\n    return {'input': inputs['input'] + 2}\n")
    _restart_workers(server)

    answer = server.stack.serving.predict("edited", [[0.0, 0.0, 0.0]])["predict"]
    np.testing.assert_allclose(answer, [3.0], atol=1e-9)

    deploy(server, "edited", before=Transformer("transformers/edited.py:f"))
    answer = server.stack.serving.predict("edited", [[0.0, 0.0, 0.0]])["predict"]
    np.testing.assert_allclose(answer, [6.0], atol=1e-9)
    line = deployed(server, "edited")
    assert line.data["transformers"]["transformers/edited.py:f"] != first


def _restart_workers(server):
    """Kills the worker: what is started in its place has the state's files alone."""
    before = {ack.pid for ack in server.files.live_acks()}
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: bool(server.workers.tend()))
    until(lambda: any(ack.pid not in before for ack in server.files.live_acks()))


@pytest.mark.parametrize(
    ("function", "status", "message"),
    [
        ("raises", 500, r"transformers/some.py:raises failed: IndexError"),
        ("refuses", 400, "negative sizes are none"),
        ("leaves", 500, r"some.py:leaves failed: SystemExit"),
        ("writes", 500, r"some.py:writes failed: ValueError"),
        ("halves", 500, r"what the transformer transformers/some.py:halves gave does not fit"),
        ("one_row", 500, r"some.py:one_row gave 1 rows of 'input' for 2"),
        ("of_texts", 500, r"some.py:of_texts gave does not fit: input 'input' holds BYTES"),
        ("nothing", 500, r"some.py:nothing gave a NoneType"),
    ],
)
def test_a_failing_transformer_is_its_requests_answer_alone(server, function, status, message):
    deploy(server, function, before=some(function))
    request = {"inputs": [tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])]}

    answer = server.infer(function, request)

    assert answer.status == status
    assert re.search(message, answer.error)
    deploy(server, "fine", before=some("doubled"))
    np.testing.assert_allclose(
        server.infer("fine", request).json["outputs"][0]["data"], [12.0, 30.0]
    )


def test_a_transformer_may_define_dataclasses(server):
    (server.stack.root / "transformers" / "classes.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Factor:\n"
        "    value: float = 3.0\n"
        "def scaled(inputs): return {'input': inputs['input'] * Factor().value}\n"
    )
    deploy(server, "classes", before=Transformer("transformers/classes.py:scaled"))
    answer = server.stack.serving.predict("classes", [[1.0, 1.0, 1.0]])["predict"]
    np.testing.assert_allclose(answer, [9.0])


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        ("transformers/some.py:absent", InvalidInputError, "no function 'absent'; functions: doub"),
        ("transformers/none.py:f", NotFoundError, "there is no file transformers/none.py"),
        ("../outside.py:f", InvalidInputError, "with a file of the project"),
        ("transformers/some.txt:f", InvalidInputError, "with a file of the project"),
        ("transformers/broken.py:f", InvalidInputError, "is no Python"),
        ("transformers/imports.py:f", UnavailableError, "imports.py can't be loaded: ModuleNot"),
    ],
)
def test_an_unusable_transformer_is_refused_at_the_deploy(server, function, error, message):
    folder = server.stack.root / "transformers"
    (folder / "broken.py").write_text("def f(:")
    (folder / "imports.py").write_text("import no_such_module\ndef f(inputs): return inputs\n")
    with pytest.raises(error, match=message):
        deploy(server, "unusable", before=Transformer(function))
    with pytest.raises(NotFoundError):
        server.stack.serving.get("unusable")


# -- features ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def features(server):
    """A model of a training set, and its views online."""
    stack = server.stack
    random = np.random.default_rng(1)
    users = pa.table(
        {
            "user": list(range(40)),
            "since": pa.array([T0 + timedelta(minutes=i) for i in range(40)], _TIME),
            "age": random.normal(40, 10, 40),
            "visits": random.integers(0, 9, 40),
        }
    )
    places = pa.table(
        {"place": ["a", "b"], "since": pa.array([T0, T0], _TIME), "height": [1.5, None]}
    )
    stack.storage.write("users", users)
    stack.storage.write("places", places)
    for name, entity, columns in (
        ("users", "user", ("age", "visits")),
        ("places", "place", ("height",)),
    ):
        view = FeatureView(name, (entity,), "since", columns, sql=f"SELECT * FROM {name}")
        stack.features.register(view)
        stack.features.materialize(view)
    labels = pa.table(
        {
            "user": list(range(30)),
            "place": ["a", "b"] * 15,
            "timestamp": pa.array([T0 + timedelta(days=1)] * 30, _TIME),
        }
    )
    training = stack.features.training_set(labels, ["users", "places"])
    rows = training.select(["age", "visits", "height"])
    model = HistGradientBoostingClassifier(max_iter=5).fit(rows.to_pandas(), [0, 0, 1] * 10)
    stack.registry.register("joined", model, example=rows)
    return training


_TIME = pa.timestamp("us", tz="UTC")


def test_the_server_joins_what_the_training_set_joined(server, features):
    serving = server.stack.serving
    join = FeatureJoin(("users", "places:height"))
    deploy(server, "joined", model="joined", features=join)
    assert serving.get("joined").arms[0].features == join
    keys = {
        "user": np.array(features["user"].to_pylist()),
        "place": np.array(features["place"].to_pylist()),
    }

    answer = serving.predict("joined", keys)

    model = server.stack.registry.load("joined")
    expected = model.predict(model.inputs(features.select(["age", "visits", "height"])))
    np.testing.assert_array_equal(answer["predict_proba"], expected["predict_proba"])

    (event,) = logged(server.stack, "joined", 1)
    used = {part["name"]: part["data"] for part in event["features"]}
    assert used["age"] == features["age"].to_pylist()
    assert used["height"][:2] == [1.5, None]
    assert used["users__timestamp"][0] == "2026-01-01T00:00:00Z"
    line = deployed(server, "joined")
    assert {i.partition("@")[0] for i in line.inputs} == {
        "model:joined",
        "view:users",
        "view:places",
    }


def test_requests_of_one_batch_keep_their_own_features(server, features):
    deploy(server, "many", model="joined", features=FeatureJoin(("users", "places")))

    def ask(user):
        request = {
            "id": f"user-{user}",
            "inputs": [tensor([user], "user", "INT64"), tensor(["a"], "place", "BYTES")],
        }
        return server.infer("many", request).json["outputs"][0]["data"]

    with ThreadPoolExecutor(16) as threads:
        answers = dict(zip(range(40), threads.map(ask, range(40)), strict=True))

    ages = dict(zip(features["user"].to_pylist(), features["age"].to_pylist(), strict=True))
    events = {event["id"]: event for event in logged(server.stack, "many", 40)}
    for user in range(30):
        event = events[f"user-{user}"]
        used = {part["name"]: part["data"] for part in event["features"]}
        assert used["age"] == [ages[user]]
        assert event["outputs"][0]["data"] == answers[user]


def test_an_unknown_entity_is_nan_or_an_error_as_wished(server, features):
    deploy(server, "lenient", model="joined", features=FeatureJoin(("users", "places")))
    strict = FeatureJoin(("users", "places"), on_missing="error")
    deploy(server, "strict", model="joined", features=strict)
    request = {"inputs": [tensor([1, 999], "user", "INT64"), tensor(["a", "a"], "place", "BYTES")]}

    assert server.infer("lenient", request).status == 200
    answer = server.infer("strict", request)
    assert answer.status == 400
    assert "'age' of view 'users' is not known for row 1" in answer.error


def test_what_the_client_sends_beside_the_keys(server, features):
    join = FeatureJoin(("users",), request=("height",))
    deploy(server, "partly", model="joined", features=join)

    described = server.ask("GET", "/v2/models/partly").json["inputs"]
    assert [(spec["name"], spec["datatype"]) for spec in described] == [
        ("user", "INT64"), ("height", "FP64"),
    ]  # fmt: skip
    request = {"inputs": [tensor([3], "user", "INT64"), tensor([1.5], "height")]}
    assert server.infer("partly", request).status == 200


@pytest.mark.parametrize(
    ("join", "error", "message"),
    [
        (FeatureJoin(("users",)), InvalidInputError, "takes height, which no view gives"),
        (FeatureJoin(("nothing",)), NotFoundError, "nothing"),
        (FeatureJoin(("users:size",)), InvalidInputError, "no feature 'size'; features: age, vis"),
        (FeatureJoin(()), InvalidInputError, "at least one view"),
        (FeatureJoin(("users", "users")), InvalidInputError, "name the view 'users' once"),
        (FeatureJoin(("users", "places"), ("x",)), InvalidInputError, "request names x"),
        (FeatureJoin(("users",), on_missing="0"), InvalidInputError, "on_missing is null or error"),
    ],
)
def test_features_that_do_not_cover_the_model_are_refused(server, features, join, error, message):
    with pytest.raises(error, match=message):
        deploy(server, "uncovered", model="joined", features=join)


def test_a_feature_of_another_type_is_refused(server, features):
    table = pa.table({"user": [1], "since": pa.array([T0], _TIME), "height": ["tall"]})
    view = FeatureView("tall", ("user",), "since", ("height",), sql="SELECT * FROM tall")
    server.stack.features.register(view)
    server.stack.features.materialize(view, tables={"tall": table})
    with pytest.raises(InvalidInputError, match="'height' of view 'tall' is of type string"):
        deploy(server, "typed", model="joined", features=FeatureJoin(("users", "tall")))


DEMAND = """
import pyarrow as pa
import pyarrow.compute as pc
from madang.data.features import OnDemandView
def height(inputs):
    return pa.table({{"height": pc.{how}(inputs["amount"], inputs["age"])}})
v = OnDemandView(
    "demanded", {{"height": pa.float64()}}, height,
    inputs=("users:age",), request={{"amount": pa.float64()}},
)
"""


def test_a_view_that_is_computed_on_demand_takes_its_columns_from_the_request(server, features):
    stack = server.stack
    (stack.root / "features" / "demanded.py").write_text(DEMAND.format(how="divide"))
    stack.features.load_definitions()
    deploy(server, "demanded", model="joined", features=FeatureJoin(("users", "demanded")))
    request = {"inputs": [tensor([3], "user", "INT64"), tensor([80.0], "amount")]}
    age = features["age"].to_pylist()[3]

    def height(count):
        assert server.infer("demanded", request).status == 200
        event = logged(server.stack, "demanded", count)[-1]
        return next(part["data"] for part in event["features"] if part["name"] == "height")

    assert height(1) == [pytest.approx(80.0 / age)]
    # Another definition in force counts from the next deploy on.
    (stack.root / "features" / "demanded.py").write_text(DEMAND.format(how="multiply"))
    stack.features.load_definitions()
    assert height(2) == [pytest.approx(80.0 / age)]
    (line,) = [ref for ref in deployed(server, "demanded").inputs if "view:demanded" in ref]
    deploy(server, "demanded", model="joined", features=FeatureJoin(("users", "demanded")))
    (after,) = [ref for ref in deployed(server, "demanded").inputs if "view:demanded" in ref]
    assert after != line


def test_a_view_that_is_gone_is_an_error_and_not_nan(server, features):
    stack = server.stack
    table = pa.table({"place": ["a"], "since": pa.array([T0], _TIME), "height": [1.0]})
    view = FeatureView("brief", ("place",), "since", ("height",), sql="SELECT * FROM brief")
    stack.features.register(view)
    stack.features.materialize(view, tables={"brief": table})
    deploy(server, "brief", model="joined", features=FeatureJoin(("users", "brief")))
    request = {"inputs": [tensor([1], "user", "INT64"), tensor(["a"], "place", "BYTES")]}
    assert server.infer("brief", request).status == 200

    stack.features.online.drop("brief")

    answer = server.infer("brief", request)
    assert answer.status == 503
    assert "nothing of the view 'brief' is online any more" in answer.error
    stack.features.materialize(view, tables={"brief": table}, full=True)
    assert server.infer("brief", request).status == 200


# -- explanations -----------------------------------------------------------------------------


def explain(server, name, rows):
    return server.ask("POST", f"/v2/models/{name}/explain", {"inputs": [tensor(rows)]})


def test_values_and_base_add_up_to_the_prediction(server):
    deploy(server, "plain")
    answer = explain(server, "plain", [[1.0, 2.0, 3.0]]).json
    assert (answer["model_name"], answer["model_version"]) == ("plain", "1")
    assert (answer["method"], answer["scale"]) == ("linear", "output")
    assert answer["background"] == {
        "rows": 4, "source": "the stored input example of the model version",
    }  # fmt: skip
    assert answer["base"][0] + np.sum(answer["values"]) == pytest.approx(6.0)
    by_version = server.ask(
        "POST", "/v2/models/plain/versions/1/explain", {"inputs": [tensor([[1.0, 2.0, 3.0]])]}
    )
    assert by_version.json["values"] == answer["values"]


def test_graphs_and_joined_features_are_explained_on_what_their_models_take(server, features):
    deploy(server, "pair", model="p", graph=Ensemble((ref("sums"), ref("sums", 2))))
    answer = explain(server, "pair", [[1.0, 2.0, 3.0]]).json
    assert answer["method"] == "sampling"
    assert answer["base"][0] + np.sum(answer["values"]) == pytest.approx(9.0)

    deploy(server, "told", model="joined", features=FeatureJoin(("users", "places")))
    request = {"inputs": [tensor([1], "user", "INT64"), tensor(["a"], "place", "BYTES")]}
    answer = server.ask("POST", "/v2/models/told/explain", request).json
    assert (answer["method"], answer["columns"]) == ("tree", ["age", "visits", "height"])


def test_what_can_not_be_explained_says_why(server):
    deploy(server, "plain")
    answer = explain(server, "plain", np.zeros((101, 3)))
    assert (answer.status, "100 rows explained, found 101" in answer.error) == (400, True)
    assert explain(server, "plain", [[1.0]]).status == 400
    assert explain(server, "absent", [[1.0]]).status == 404
    assert server.ask("POST", "/v2/models/plain/explain", {}, token="").status == 401


@pytest.mark.parametrize("weights", [(0.0, 0.0), (1e308, 1e308), (float("nan"), 1.0)])
def test_weights_without_a_share_are_refused(server, weights):
    from madang.deployment.serving.local import _check

    with pytest.raises(InvalidInputError, match=r"are 0; one|too large to be|has weight nan"):
        _check("e", [Arm("a", i, weight) for i, weight in enumerate(weights)])


@pytest.mark.parametrize("version", ["5²", "٣", "9" * 5000, "champion"])
def test_what_is_no_number_is_an_alias(version):
    asked = []
    graph_from(f"model@{version}", lambda name, given: asked.append((name, given)))
    assert asked == [("model", version)]


def test_an_arm_is_the_same_in_json():
    from madang.deployment.serving._arms import arm_from, exactly, graph_to

    data = {
        "model": "x",
        "version": 4,
        "weight": 0.5,
        "graph": {
            "chain": [{"ensemble": ["a@1", "b@2"], "weights": [2, 1]}, "c@3"],
            "maps": [{"input": "predict"}],
        },
        "before": {"function": "t.py:f", "tensors": [{"name": "n", "datatype": "BYTES"}]},
        "features": ["users:age", "places"],
    }
    arm = arm_from(data, exactly)
    assert arm.graph == Chain(
        (Ensemble((ModelRef("a", 1), ModelRef("b", 2)), weights=(2, 1)), ModelRef("c", 3)),
        ({"input": "predict"},),
    )
    assert arm.features == FeatureJoin(("users:age", "places"))
    again = json.loads(json.dumps(graph_to(arm.graph)))
    assert arm_from({**data, "graph": again}, exactly) == arm
    for wrong, message in (
        ({"chain": []}, "a chain can't be read"),
        ({"ensemble": ["a@1"], "combine": "sum"}, "an ensemble can't be read"),
        (3, "a graph is"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            arm_from({**data, "graph": wrong}, exactly)
