"""Trees that lead out of themselves are refused before they are stored, for some crash later."""

from __future__ import annotations

import json
import re

import lightgbm
import numpy as np
import pytest
import xgboost

from madang.development.experiments._tree_files import check_lightgbm, check_xgboost
from madang.errors import InvalidInputError

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(400, 4))
ROWS[:, 3] = RANDOM.integers(0, 40, 400)
LABELS = (ROWS[:, 0] + ROWS[:, 3] % 3 > 1).astype(int)
QUIET = {"n_estimators": 3, "verbose": -1, "n_jobs": 1}

LIGHTGBM = {
    "numbers": (lightgbm.LGBMRegressor(**QUIET), {}),
    "categories": (lightgbm.LGBMClassifier(**QUIET), {"categorical_feature": [3]}),
    "linear leaves": (lightgbm.LGBMRegressor(**QUIET, linear_tree=True), {}),
    "dropped trees": (lightgbm.LGBMClassifier(**QUIET, boosting_type="dart"), {}),
    "leaves alone": (lightgbm.LGBMClassifier(**QUIET, min_child_samples=1000), {}),
}
XGBOOST = {
    "numbers": (xgboost.XGBRegressor(n_estimators=3, n_jobs=1), LABELS),
    "pruned": (xgboost.XGBRegressor(n_estimators=3, gamma=5, tree_method="exact"), LABELS),
    "dropped trees": (xgboost.XGBClassifier(n_estimators=3, booster="dart"), LABELS),
    "linear": (xgboost.XGBClassifier(n_estimators=3, booster="gblinear"), LABELS),
    "three classes": (xgboost.XGBClassifier(n_estimators=3), LABELS + (ROWS[:, 1] > 0)),
    "vectors": (
        xgboost.XGBRegressor(n_estimators=3, multi_strategy="multi_output_tree"), ROWS[:, :2]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LIGHTGBM)
def test_lightgbm_itself_passes(name):
    model, options = LIGHTGBM[name]
    check_lightgbm(model.fit(ROWS, LABELS, **options).booster_.model_to_string())


@pytest.mark.parametrize("name", XGBOOST)
def test_xgboost_itself_passes(name):
    model, targets = XGBOOST[name]
    check_xgboost(model.fit(ROWS, targets).get_booster().save_raw("json"))


@pytest.fixture(scope="module")
def text():
    model = lightgbm.LGBMRegressor(**QUIET, num_leaves=4, min_data_per_group=1, cat_smooth=0)
    fitted = model.fit(ROWS, ROWS[:, 3] % 3, categorical_feature=[3])
    return fitted.booster_.model_to_string()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("split_feature", "4 4 4"), ("split_feature", "-2000000 0 0"), ("split_feature", "0 0"),
        ("left_child", "0 0 0"), ("left_child", "1 1 1"), ("left_child", "3 -1 -2"),
        ("left_child", "-9 -1 -2"), ("right_child", "2 -1"), ("right_child", "x y z"),
        ("leaf_value", "1 2 3"), ("num_leaves", "3"), ("num_leaves", "2147483647"),
        ("cat_boundaries", "0 900"), ("cat_boundaries", "1 0"), ("num_cat", "0"),
        ("threshold", "7 7 7"),
    ],
)  # fmt: skip
def test_lightgbm_by_hand(text, name, value):
    changed, count = re.subn(rf"^{name}=.*$", f"{name}={value}", text, count=1, flags=re.MULTILINE)
    assert count == 1
    with pytest.raises(InvalidInputError, match=r"tree 0 (of the model leads|can't be)"):
        check_lightgbm(changed)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("split_indices", 4), ("split_indices", -1), ("left_children", 99), ("left_children", 0),
        ("right_children", 1), ("left_children", -1), ("split_indices", None),
        ("split_conditions", None), ("base_weights", None), ("default_left", None),
    ],
)  # fmt: skip
def test_xgboost_by_hand(name, value):
    model = xgboost.XGBClassifier(n_estimators=2, max_depth=2, n_jobs=1).fit(ROWS, LABELS)
    content = json.loads(model.get_booster().save_raw("json"))
    tree = content["learner"]["gradient_booster"]["model"]["trees"][1]
    if value is None:
        tree[name].pop()
    else:
        tree[name][0] = value
    with pytest.raises(InvalidInputError, match="tree 1 of the model leads out of its own nodes"):
        check_xgboost(json.dumps(content).encode())


def test_xgboosts_outputs_are_as_many_as_it_says():
    model = xgboost.XGBClassifier(n_estimators=2, max_depth=2, n_jobs=1).fit(ROWS, LABELS)
    content = json.loads(model.get_booster().save_raw("json"))
    content["learner"]["gradient_booster"]["model"]["tree_info"][1] = 1
    with pytest.raises(InvalidInputError, match="trees add to more than its 1 outputs"):
        check_xgboost(json.dumps(content).encode())


def test_a_stored_model_is_checked(tmp_path, text):
    """A negative column passes LightGBM's reading, and ended the process that predicted."""
    from madang.development.experiments import formats

    hostile = re.sub(r"^split_feature=.*$", "split_feature=-2000000 0 0", text, flags=re.MULTILINE)
    hostile = re.sub(r"^tree_sizes=.*\n", "", hostile, flags=re.MULTILINE)
    booster = lightgbm.Booster(model_str=hostile)
    with pytest.raises(InvalidInputError, match="leads out of its own nodes or columns"):
        formats.save(booster, tmp_path)
