"""The models of a service by name: opened at the start, and loaded anew while the old one still answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rearec.errors import UserError, some_of
from rearec.inference import Recommender
from rearec.run_folder import RunFolder

__all__ = ["BusyError", "ServedModel", "ServedModels", "UnknownModelError", "named_runs"]

# What a training writes last, and what an answer is made of.
LOOKED_AT = ("result.json", "config.json", "catalog.json", "model.safetensors", "prior.safetensors")
Stamp = tuple[tuple[int, int] | None, ...]


class UnknownModelError(UserError):
    """No model has this name."""


class BusyError(UserError):
    """The model is being loaded already."""


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model as it was loaded; another loading makes another one.

    excludes_seen: whether it was trained, and is answered, without the items of the history.
    version: tells its weights from any others.
    loaded: seconds since 1970.
    """

    name: str
    recommender: Recommender
    excludes_seen: bool
    version: str
    loaded: float


class ServedModels:
    """The models of a service; any number of threads may ask for one while another one is loaded anew.

    Args:
        runs: RUN folders, or names on the Hugging Face Hub, by the name that a request says. The first one answers
            requests that name none.
        options: further arguments of `Recommender`.

    Raises:
        UserError: there is no run; as `Recommender`.
    """

    def __init__(self, runs: Mapping[str, str | Path], **options: Any) -> None:
        if not runs:
            raise UserError("no RUN was given; expected the folder of a finished training")
        self._runs, self._options = dict(runs), options
        self._loading = {name: threading.Lock() for name in runs}
        self._models = {name: self._load(name) for name in runs}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter([*self._models.values()])

    def get(self, name: str | None) -> ServedModel:
        """The model of a name, the first one for None; UnknownModelError where there is none."""
        if name is None:
            return next(iter(self._models.values()))
        try:
            return self._models[name]
        except KeyError:
            raise UnknownModelError(
                f"model: there is no {name[:100]!r}; there are {some_of([*self._models])}"
            ) from None

    def reload(self, name: str | None) -> ServedModel:
        """Load a model anew from where it was; the old one answers until then, and goes on where this fails.

        Raises:
            UnknownModelError: there is no such model.
            BusyError: another thread loads it.
            UserError: what is there now cannot be loaded.
        """
        name = self.get(name).name
        if not self._loading[name].acquire(blocking=False):
            raise BusyError(f"model: {name!r} is being loaded already")
        try:
            self._models[name] = model = self._load(name)
        finally:
            self._loading[name].release()
        return model

    def stamps(self) -> dict[str, Stamp]:
        """What changes where a run was trained anew, by name; without runs that are not finished, or not on disk."""
        folders = {name: RunFolder(run) for name, run in self._runs.items()}
        return {name: _stamp(folder.path) for name, folder in folders.items() if folder.finished}

    def _load(self, name: str) -> ServedModel:
        run = self._runs[name]
        folder = RunFolder(run)
        recommender = Recommender(run, **self._options)
        catalog = recommender.catalog
        if catalog.item_ids:  # the first pass takes longer
            recommender.recommend([catalog.item_ids[:1]])
        has_options = folder.options_file.is_file()
        return ServedModel(
            name,
            recommender,
            bool(folder.excludes_seen()) if has_options else False,
            folder.weights_digest() if folder.path.is_dir() else "",
            time.time(),
        )


def named_runs(given: Sequence[str]) -> dict[str, str]:
    """RUNs by name: NAME=RUN as it says, others by the name of their folder.

    UserError where two have one name.

    Examples:
        >>> from rearec.serving.models import named_runs
        >>> named_runs(["runs/beauty", "toys=runs/2026-11"])
        {'beauty': 'runs/beauty', 'toys': 'runs/2026-11'}
    """
    runs: dict[str, str] = {}
    for each in given:
        name, equals, run = each.partition("=")
        if not equals or Path(each).exists():
            name, run = Path(each).resolve().name, each
        if not name or not run:
            raise UserError(f"{each}: expected a RUN or NAME=RUN")
        if name in runs:
            raise UserError(f"{run}: two models would have the name {name!r}; say NAME={run}")
        runs[name] = run
    return runs


def _stamp(folder: Path) -> Stamp:
    stamps: list[tuple[int, int] | None] = []
    for name in LOOKED_AT:
        try:
            status = (folder / name).stat()
        except OSError:
            stamps.append(None)
        else:
            stamps.append((status.st_mtime_ns, status.st_size))
    return tuple(stamps)
