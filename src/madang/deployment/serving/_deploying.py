"""What a deploy makes of arms: found in the registry, fetched, and checked against each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madang.data.features.contract import OnDemandView
from madang.deployment.serving import _transformers
from madang.deployment.serving._arms import exactly, graph_from, graph_to, leaves
from madang.deployment.serving._assignment import BY_ID, MAX_ARMS
from madang.deployment.serving._composed import Online, signature_of
from madang.deployment.serving._join import parsed
from madang.deployment.serving._state import WantedArm, WantedFeatures, WantedSplit
from madang.deployment.serving.contract import Arm, FeatureJoin, Split, Transformer
from madang.development.experiments._manifest import read_manifest
from madang.development.experiments._tensors import Arrays
from madang.development.experiments.contract import Registry, Signature
from madang.development.experiments.formats import LoadedModel
from madang.errors import InvalidInputError, UnavailableError

if TYPE_CHECKING:
    from madang.data.features.store import FeatureStore


def wanted_arm(
    arm: Arm, registry: Registry, features: FeatureStore | None, root: Path
) -> WantedArm:
    """An arm with the digests of all that it is made of; reads the transformers' sources.

    Raises:
        NotFoundError: A model version, a view or a file is not there.
        InvalidInputError: A transformer or a reference is not usable.
    """
    digest, digests = "", dict[str, str]()
    if arm.graph is None:
        digest = registry.get(arm.model, arm.version).digest
    else:
        for ref in leaves(arm.graph):
            digests[f"{ref.model}@{ref.version}"] = registry.get(ref.model, ref.version).digest
    return WantedArm(
        arm.model,
        arm.version,
        float(arm.weight),
        digest,
        None if arm.graph is None else graph_to(arm.graph),
        tuple(digests.items()),
        _transformers.read(root, arm.before) if arm.before else None,
        _transformers.read(root, arm.after) if arm.after else None,
        _features(arm.features, features) if arm.features and features else None,
    )


def _features(join: FeatureJoin, features: FeatureStore) -> WantedFeatures:
    if join.on_missing not in {"null", "error"}:
        raise InvalidInputError(f"on_missing is null or error: {join.on_missing!r}")
    pinned, refs = {}, []
    for view in parsed(join.columns):
        ref = features.info(view).ref
        refs.append(ref)
        if isinstance(features.get(view), OnDemandView):
            pinned[view] = ref.rpartition("@")[2]
    return WantedFeatures(join.columns, join.request, join.on_missing, pinned, tuple(refs))


def arm_of(wanted: WantedArm) -> Arm:
    """The arm as it was deployed."""

    def transformer(function: Any) -> Transformer | None:
        return function and Transformer(function.function, _transformers.specs_of(function))

    join = wanted.features
    return Arm(
        wanted.model,
        wanted.version,
        wanted.weight,
        None if wanted.graph is None else graph_from(wanted.graph, exactly),
        transformer(wanted.before),
        transformer(wanted.after),
        None if join is None else FeatureJoin(join.columns, join.request, join.on_missing),  # type: ignore[arg-type]  # checked at the deploy
    )


def wanted_split(
    split: Split, arms: Sequence[WantedArm], inputs: Sequence[str], *, log: bool
) -> WantedSplit:
    """A split that fits the arms.

    Args:
        split: As asked for.
        arms: In order.
        inputs: What all of them take.
        log: Whether predictions are logged.

    Raises:
        InvalidInputError: Says what does not fit.
    """
    if not log:
        raise InvalidInputError("a rollout needs the prediction log: deploy with log=True")
    if len(arms) > MAX_ARMS:
        raise InvalidInputError(f"a rollout has up to {MAX_ARMS} arms; found {len(arms)}")
    if split.key not in {"", BY_ID, *inputs}:
        raise InvalidInputError(
            f"the key {split.key!r} of the rollout is no input; inputs: {', '.join(inputs)}"
        )
    versions = {arm.version for arm in arms}
    if not set(split.shadows) <= versions:
        raise InvalidInputError(
            f"shadows {list(split.shadows)} are versions of arms: {sorted(versions)}"
        )
    return WantedSplit(split.rollout, split.salt, split.stage, split.key, split.shadows)


def split_of(wanted: WantedSplit) -> Split:
    """The split as it was deployed."""
    return Split(wanted.rollout, wanted.salt, wanted.stage, wanted.key, wanted.shadows)


def check_arms(arms: Sequence[WantedArm], models: Path, online: Online) -> tuple[str, ...]:
    """Refuses arms that don't fit, in themselves or beside each other; the names of their inputs.

    Raises:
        InvalidInputError: Says what does not fit.
    """
    numbers: dict[int, WantedArm] = {}
    first: tuple[WantedArm, Signature] | None = None
    for arm in arms:
        other = numbers.setdefault(arm.version, arm)
        if other is not arm:
            raise InvalidInputError(
                f"{other.model}@{other.version} and {arm.model}@{arm.version} have the same "
                "version number, which is what tells them apart behind an endpoint"
            )
        found = signature(arm, models, online)
        first = first or (arm, found)
        if found.inputs != first[1].inputs:
            raise InvalidInputError(
                f"{arm.model}@{arm.version} takes other inputs than "
                f"{first[0].model}@{first[0].version}; give it an endpoint of its own"
            )
    return tuple(spec.name for spec in first[1].inputs) if first else ()


def signature(arm: WantedArm, models: Path, online: Online) -> Signature:
    """What an arm takes and gives, from the manifests of its models."""
    if arm.is_plain:
        return read_manifest(models / arm.digest, arm.digest).signature
    return signature_of(arm, lambda part: described(part, models), online)


def described(arm: WantedArm, models: Path) -> LoadedModel:
    """A model's manifest in place of the model."""
    return LoadedModel(read_manifest(models / arm.digest, arm.digest), _Described())


class _Described:
    """Stands for a model that is not loaded here."""

    native = None

    def __call__(self, inputs: Arrays) -> Arrays:
        raise UnavailableError("the model is not loaded in this process; ask an inference worker")
