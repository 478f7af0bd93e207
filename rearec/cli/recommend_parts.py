"""``rearec recommend --input`` with parquet files: part by part, by one process or several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rearec.cli.output import note, progress_bar
from rearec.errors import UserError

if TYPE_CHECKING:
    from rearec.facade import FittedModel
    from rearec.run_folder import RunFolder

__all__ = ["answer_parts"]


def answer_parts(
    model: FittedModel,
    run: RunFolder,
    source: Path,
    output: Path,
    options: Mapping[str, Any],
    *,
    titles: bool,
    force: bool,
    precision: str = "fp32",
    actors: int = 0,
    trust_code: bool = False,
) -> dict[str, Any]:
    """Answer the parts that are not answered yet; returns what `rearec recommend` says of it, on every process.

    precision: of the states, which ``model`` was opened with.
    actors: of Ray, which answer in place of this process; 0: none.
    """
    from rearec.distributed import agreed, gather_values, lost_processes, processes
    from rearec.inference.parts import Parts, answer_part
    from rearec.inference.ray_parts import answer_by_ray

    group = processes()
    asked = {**options, "titles": titles, "precision": precision, "model": run.weights_digest()}
    waiting = []
    with agreed(lambda: {"input": [str(part.source) for part in parts.members], "options": asked}):
        parts = Parts(source, output)
        if group.is_first:
            waiting = parts.begin(asked, force=force)
    # seen by the first one, before anybody has answered anything
    (numbers, *_) = gather_values([parts.members.index(part) for part in waiting])
    if len(numbers) < len(parts.members):
        note(f"{len(parts.members) - len(numbers):,} of {len(parts.members):,} parts are answered already")
    counts: Counter[str] = Counter()
    if actors and numbers:
        left = [parts.members[number] for number in numbers]
        counts = answer_by_ray(
            left, run.path, options, titles=titles, precision=precision, actors=actors, trust_code=trust_code
        )
        numbers = []
    own = numbers[group.rank :: group.size]
    with progress_bar("recommending") as progress, lost_processes("the same command goes on"):
        for done, number in enumerate(own, start=1):
            counts += answer_part(partial(model.recommend, **options), parts.members[number], titles=titles)
            progress(done, len(own))
        total = sum(gather_values(counts), Counter())
    if missing := [part.answers.name for part in parts.members if not part.is_answered]:
        raise UserError(f"{output}: {missing[0]} is missing, though it was written; is the folder shared by all?")
    if group.is_first:
        parts.finish()
    return {
        "output": str(output),
        "parts": len(parts.members),
        "histories": total["histories"],
        "by_model": total["histories"] - total["by_popularity"],
        "by_popularity": total["by_popularity"],
        "unknown_items": total["unknown_items"],
    }
