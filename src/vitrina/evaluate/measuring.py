"""Several fitted pipelines, one split, one protocol, one table."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from vitrina.errors import ConfigError
from vitrina.evaluate.evaluation import Evaluation
from vitrina.evaluate.evaluator import Evaluator, Run
from vitrina.evaluate.protocol import Protocol
from vitrina.log import Histories
from vitrina.pipeline import Pipeline
from vitrina.policies import Unseen
from vitrina.schema import FloatArray
from vitrina.split import Split


def evaluate(
    pipelines: Mapping[str, Pipeline | Sequence[Pipeline]],
    split: Split,
    *,
    train: Histories,
    protocol: Protocol | None = None,
    fit_s: Mapping[str, float] | None = None,
    lists_folder: str | os.PathLike[str] | None = None,
    item_vectors: FloatArray | None = None,
    batch_size: int = 1024,
) -> Evaluation:
    """Measure pipelines that were fitted on `train`.

    Every model answers the same queries over the full catalogue under the same seen-filter. Cold items stay
    in the truth as misses. To keep only one model in memory, use `Evaluator.run` and `Evaluation.of`.

    Args:
        pipelines: by name; a sequence holds fits of one model that differ in the seed.
        split: what they are measured on.
        train: histories of `split.train`.
        protocol: the rules; None takes the defaults (`Protocol`).
        fit_s: seconds that each fit took, for the tables.
        lists_folder: where the lists go, MODEL.parquet (MODEL-SEED.parquet for several seeds); None: nowhere.
        item_vectors: (I, D), for diversity; None takes who took items together.
        batch_size: queries asked at once.

    Raises:
        SplitError: a pipeline has seen the future or was fitted on other items; no test user is left.
        ConfigError: no pipeline, or pipelines that filter seen items differently where that is left to them.
    """
    protocol = protocol or Protocol()
    runs_of = {name: [p] if isinstance(p, Pipeline) else list(p) for name, p in pipelines.items()}
    if not any(runs_of.values()):
        raise ConfigError("there is no pipeline to evaluate; name at least one")
    if protocol.repeats == "as_configured":
        _check_same_filter([p for fits in runs_of.values() for p in fits])
    evaluator = Evaluator(
        split=split, train=train, protocol=protocol, batch_size=batch_size, item_vectors=item_vectors
    )
    runs: list[Run] = []
    for name, fits in runs_of.items():
        for seed, pipeline in enumerate(fits):
            file = name if len(fits) == 1 else f"{name}-{seed}"
            runs.append(
                evaluator.run(
                    name,
                    pipeline,
                    seed=seed,
                    fit_s=None if fit_s is None else fit_s.get(name),
                    lists_path=None if lists_folder is None else Path(lists_folder) / f"{file}.parquet",
                )
            )
    return Evaluation.of(evaluator, runs)


def _check_same_filter(pipelines: list[Pipeline]) -> None:
    filters = [[p for p in pipeline.policies if isinstance(p, Unseen)] for pipeline in pipelines]
    if any(found != filters[0] for found in filters[1:]):
        raise ConfigError(
            "these pipelines filter seen items differently, so their numbers cannot be compared; "
            'give all the same Unseen policy, or measure with repeats="count" or repeats="new_only"'
        )
