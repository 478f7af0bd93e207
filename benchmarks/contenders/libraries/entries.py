"""Who takes part, and with what it is installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from contenders.libraries import recipes
from contenders.libraries.recipes import Recipe

TORCH = "torch==2.13.0"
# Published packages alone, as their authors say one installs them; what RecBole needs besides is older than it admits.
REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "rectools": ("rectools[torch]==0.19.0", TORCH),
    "replay": ("replay-rec[torch]==0.22.0", TORCH),
    "recbole": ("recbole==1.2.1", "setuptools<81", "numpy<2", "pandas<2.3", "scipy<1.13", TORCH),
}
OURS = "rearec base"


@dataclass(frozen=True)
class Entry:
    """module: of this package. environment: a key of REQUIREMENTS, None for the interpreter that measures.

    kinds: measurements that it takes part in. recipe: None for the same sizes as all, and the library's defaults.
    """

    module: str
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: str | None = None
    kinds: tuple[str, ...] = ("speed", "quality")
    recipe: Recipe | None = None


def _ours() -> Iterator[tuple[str, Entry]]:
    methods: dict[str, dict[str, Any]] = {
        OURS: {"method": "base"},
        "rearec erl K 2": {"method": "erl", "steps": 2},
        "rearec prl K 2": {"method": "prl", "steps": 2, "alpha": 1.5},
    }
    for name, options in methods.items():
        yield name, Entry("ours", options)
        yield f"{name}, bf16", Entry("ours", options | {"precision": "bf16"}, kinds=("speed",))
    for method in ("base", "prl"):
        yield f"rearec {method}, recipe", _with(recipes.OURS, "ours", None, method=method)


def _with(recipe: Recipe, module: str, environment: str | None, **options: Any) -> Entry:
    return Entry(module, {**options, **recipe.options}, environment, ("quality",), recipe)


ENTRIES: dict[str, Entry] = {
    **dict(_ours()),
    "plain PyTorch": Entry("plain"),
    "RePlay SasRec": Entry("replay_sasrec", environment="replay"),
    "RePlay SasRec, recipe": _with(recipes.REPLAY, "replay_sasrec", "replay"),
    "RecBole SASRec": Entry("recbole_sasrec", environment="recbole"),
    "RecBole SASRec, recipe": _with(recipes.RECBOLE, "recbole_sasrec", "recbole"),
    "RecTools SASRec": Entry("rectools_sasrec", environment="rectools"),
    "RecTools SASRec, recipe": _with(recipes.RECTOOLS, "rectools_sasrec", "rectools"),
}
