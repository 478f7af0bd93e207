"""The same by the machines of a Ray cluster: every actor has a recommender of its own and takes part after part."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from rearec.errors import UserError, in_one_line
from rearec.inference.parts import Part, answer_part

__all__ = ["answer_by_ray", "check_ray"]


def check_ray() -> None:
    """UserError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise UserError("--engine ray: the package ray is not installed; pip install 'rearec[ray]'")


class _Actor:
    """Answers parts with a recommender that is opened once."""

    def __init__(self, run: str, opening: Mapping[str, Any], options: Mapping[str, Any], titles: bool) -> None:
        from rearec.inference.recommender import Recommender

        self._answer = partial(Recommender(run, **opening).recommend, **options)
        self._titles = titles

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Of one part or several; one that was answered before its actor was lost is not answered again."""
        found: dict[str, list[int]] = {"histories": [], "by_popularity": [], "unknown_items": []}
        for source, answers in zip(batch["source"], batch["answers"], strict=True):
            part = Part(Path(str(source)), Path(str(answers)))
            counts = answer_part(self._answer, part, titles=self._titles)
            for name, values in found.items():
                values.append(counts[name])
        return found


def answer_by_ray(
    parts: Sequence[Part],
    run: Path,
    options: Mapping[str, Any],
    *,
    titles: bool,
    actors: int,
    precision: str = "fp32",
    trust_code: bool = False,
) -> Counter[str]:
    """Answer parts with Ray Data's ``map_batches``: on the cluster of RAY_ADDRESS, or on this machine alone.

    A part is one task. Where an actor is lost Ray starts another one and gives it the part again, whose file is there
    only when all of it is answered: every history is answered once. All machines need to see the files.

    Args:
        parts: those to answer.
        run: the RUN folder.
        options: of `Recommender.recommend`.
        titles: as for `answer_part`.
        actors: how many; each has a processor, or where Ray knows of GPUs one of those.
        precision, trust_code: as for `Recommender`.

    Returns:
        the sums of what `answer_part` counts.

    Raises:
        UserError: Ray is not installed, or an actor has raised one.
    """
    check_ray()
    import ray
    from ray.exceptions import RayError

    with redirect_stdout(sys.stderr), _cluster(ray):  # what Ray says of a lost actor is no part of anybody's result
        gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
        opening = {"trust_code": trust_code, "device": "cuda" if gpus else "cpu", "precision": precision}
        rows = [{"source": str(part.source.resolve()), "answers": str(part.answers.resolve())} for part in parts]
        tasks = ray.data.from_items(rows, override_num_blocks=len(rows))
        answered = tasks.map_batches(
            _Actor,
            batch_size=1,
            concurrency=min(actors, len(rows)),
            num_cpus=1,
            num_gpus=gpus or None,
            fn_constructor_args=(str(run.resolve()), opening, dict(options), titles),
        )
        try:
            done = answered.take_all()
        except (RayError, UserError) as error:
            raise UserError(f"Ray: {_cause(error)}") from error
    return sum((Counter({name: int(count) for name, count in row.items()}) for row in done), Counter())


@contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    """Ray as it is running in this process, or else begun and ended; quiet."""
    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False, logging_level="error", include_dashboard=False)
    context = ray.data.DataContext.get_current()
    before = context.enable_progress_bars
    context.enable_progress_bars = False
    try:
        yield
    finally:
        context.enable_progress_bars = before
        if ours:
            ray.shutdown()


def _cause(error: BaseException) -> str:
    """What an actor said, without the stack that Ray puts before it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = getattr(cause, "cause", None) or cause.__cause__
    return str(cause) if cause is not None else in_one_line(Exception(str(error).strip().splitlines()[-1]))
