"""What commands ask of a run: its model and its dataset, whether seen items are ranked, how deep it reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rearec.cli.output import note
from rearec.engine.words import StatePrecision
from rearec.errors import UserError
from rearec.fields import is_code
from rearec.models.config import OWN_BACKBONE

if TYPE_CHECKING:
    import torch

    from rearec.data.dataset import SequenceDataset
    from rearec.evaluation.seen import SeenItems
    from rearec.reasoning import ReaRec
    from rearec.run_folder import RunFolder

__all__ = [
    "OfStates",
    "TrustCode",
    "check_code",
    "check_code_to_resume",
    "check_steps",
    "open_model",
    "seen_of_run",
]

TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Run the code that RUN names, where parts of it are somebody's own.")
]

OfStates = Annotated[
    StatePrecision,
    typer.Option(
        "--precision",
        help="Of the encoder and the reasoning steps; bf16 pays with AMX, AVX512-BF16 or a GPU. Scores are float32.",
    ),
]


def check_code(run: RunFolder, trust_code: bool) -> None:
    """UserError where a command cannot or may not load the encoder of a finished run; imports nothing."""
    backbone = run.options()["model"].get("backbone")
    if backbone == OWN_BACKBONE:
        raise UserError(
            f"{run.path}: its encoder was handed over in Python and has no name that a command could load it by; "
            "load the model in Python with backbone=, or train it with --backbone module:factory"
        )
    if is_code(backbone) and not trust_code:
        raise UserError(f"{run.path}: its encoder is made by code of somebody's own, {backbone}; --trust-code runs it")


def check_code_to_resume(run: RunFolder, given: set[str], trust_code: bool) -> None:
    """UserError where a run to resume names code that the user has not: neither by its option nor by --trust-code."""
    for name in ("backbone", "method"):
        word = run.options()["model"].get(name)
        if word == OWN_BACKBONE:
            raise UserError(
                f"{run.path}: its {name} was handed over in Python and has no name that a command could load it by; "
                "resume it in Python, where it was started"
            )
        if is_code(word) and name not in given and not trust_code:
            raise UserError(
                f"{run.path}: its {name} is code of somebody's own, {word}; --trust-code or --{name} {word} runs it"
            )


def open_model(run: RunFolder, device: torch.device | str, trust_code: bool, *, prior: bool = True) -> ReaRec:
    """The model of a finished run; UserError as `check_code`, and for damaged files.

    prior: whether its graph prior is loaded, where it has one.
    """
    from rearec.reasoning import ReaRec

    check_code(run, trust_code)
    return ReaRec.from_pretrained(run.path, map_location=device, trust_code=trust_code, prior=prior)


def seen_of_run(run: RunFolder, dataset: SequenceDataset, exclude: bool | None) -> SeenItems:
    """Whether seen items are left out in what is said of a finished run; tells the user, and why."""
    from rearec.evaluation import seen_items

    of_run = run.excludes_seen()
    seen = seen_items(dataset, exclude, of_run=of_run)
    unsaid = exclude is None and of_run is None
    note(f"{seen}; {run.path} was trained before there was a choice" if unsaid else str(seen))
    return seen


def check_steps(steps: int | None, trained: int) -> None:
    """UserError where ``--steps`` asks for more reasoning steps than the model was trained for."""
    if steps is not None and steps > trained:
        raise UserError(f"--steps: got {steps}, expected 0..{trained}: the model was trained for {trained} steps")
