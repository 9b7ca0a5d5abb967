"""Whole experiments from one engine to another, and whatever would be lost on the way.

    with madang.open() as stack:
        target = experiments.connect("mlflow+sqlite:///export/mlflow.db", stack.context)
        copy(stack.experiments, target, ["flights"])

A copy has the experiments with their tags; their runs with parameters, metric histories, tags,
status, times, whether they are deleted, what they are nested in, datasets, logged models and
artifacts; and the registered models with versions, tags and aliases. Experiments and models are
known by their names, runs and logged models by their ids: an experiment's own id is the target's.
"""

from __future__ import annotations

from collections.abc import Sequence

from madang.development.experiments._copies_by_contract import ContractCopy
from madang.development.experiments._copies_whole import WholeCopy
from madang.development.experiments._copy import Copied, Copy, Progress, all_pages
from madang.development.experiments.contract import Experiments, TakesCopies, TakesVersions
from madang.development.experiments.values import Experiment, View
from madang.errors import InvalidInputError, NotFoundError


class LossError(InvalidInputError):
    """A copy would not have everything.

    Attributes:
        losses: What it would not have, one sentence each.
    """

    def __init__(self, losses: Sequence[str]) -> None:
        self.losses = tuple(losses)
        shown = "".join(f"\n  {line}" for line in self.losses[:20])
        more = f"\n  and {len(self.losses) - 20} more" if len(self.losses) > 20 else ""
        super().__init__(
            f"the copy would not have everything, so nothing was copied:{shown}{more}\n"
            "accept that (--accept-loss, accept_loss=True), or choose another target"
        )


def copy(
    source: Experiments,
    target: Experiments,
    names: Sequence[str] | None = None,
    *,
    origin: str = "",
    accept_loss: bool = False,
    trust: bool = False,
    progress: Progress | None = None,
) -> Copied:
    """Copies experiments with everything that belongs to them.

    It may be killed at any moment, and be called again: it goes on where it was, and puts nothing
    twice. What is there already stays as it is; where it differs, the result says so.

    Args:
        source: Where they are.
        target: Where they go. One that is no `TakesCopies` gives ids and numbers of its own.
        names: The experiments, by name; with them come the versions that their runs made. All
            experiments and all registered models when `None`.
        origin: What the target's ledger says of where they are from.
        accept_loss: Copy also when the target can't keep everything.
        trust: Keep models loadable also when loading them runs their code.
        progress: Told what was just done.

    Raises:
        NotFoundError: There is no such experiment.
        InvalidInputError: Source and target are one.
        LossError: The copy would not have everything; nothing was copied.
        IntegrityError: A file is not in the target what it is in the source.
    """
    if source is target:
        raise InvalidInputError("the experiments are there already: source and target are one")
    takes = isinstance(target, TakesCopies) and isinstance(target.registry, TakesVersions)
    kind: type[Copy] = WholeCopy if takes else ContractCopy
    work = kind(source, target, origin=origin, trust=trust, progress=progress)
    chosen = _chosen(source, names)
    lost = [line for experiment in chosen for line in work.losses(experiment)]
    lost += work.version_losses(chosen if names is not None else None)
    if lost and not accept_loss:
        raise LossError(lost)
    work.done.left += lost
    for experiment in chosen:
        work.copy_experiment(experiment)
    work.copy_models(chosen if names is not None else None)
    return work.done


def _chosen(source: Experiments, names: Sequence[str] | None) -> list[Experiment]:
    if names is None:
        return sorted(
            all_pages(lambda token: source.search_experiments(view=View.ALL, page_token=token)),
            key=lambda experiment: (experiment.created_us, experiment.id),
        )
    found = []
    for name in dict.fromkeys(names):
        experiment = source.find_experiment(name)
        if experiment is None:
            raise NotFoundError(f"there is no experiment {name!r} to copy")
        found.append(experiment)
    return found


__all__ = ["Copied", "LossError", "Progress", "copy"]
