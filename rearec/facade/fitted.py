"""A trained model with its dataset and the record of its training."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch

from rearec.data import SequenceDataset, load_dataset
from rearec.data.words import SplitName
from rearec.engine.words import StatePrecision
from rearec.errors import UserError
from rearec.evaluation import evaluate
from rearec.facade.device import device_of
from rearec.facade.shown import result_html, result_lines
from rearec.facade.users import UserHistories
from rearec.facade.words import called_in_python, python_errors
from rearec.files import partial_name
from rearec.inference import Explanation, Recommendation, Recommender
from rearec.inference.answers import as_frame
from rearec.inference.recommender import in_words
from rearec.models.backbone import Backbone
from rearec.models.config import ReaRecConfig
from rearec.run_folder import RunFolder
from rearec.training import advice
from rearec.training.resuming import settings_of_run

if TYPE_CHECKING:
    import polars as pl

__all__ = ["FittedModel", "TemporaryFolder", "load"]


class TemporaryFolder:
    """A folder that is deleted with the last object that holds it, or when Python ends."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="rearec-"))
        self.delete = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    def __deepcopy__(self, memo: object) -> TemporaryFolder:
        return self

    def __reduce__(self) -> tuple[type, tuple[()]]:
        # Another process does not keep this folder alive; what holds a pickled copy answers, but has no files.
        return type(None), ()


class FittedModel(Recommender):
    """A trained model that answers, with its dataset and the record of its training: what `fit` and `load` return.

    All that a `Recommender` does, it does, from several threads too; and it knows the users of its dataset.

    Attributes:
        run: the RUN folder that the training wrote. Of `fit` without ``out``, a temporary folder, which is deleted with
            the model: `save` keeps it.
        excludes_seen: whether the training chose its best epoch with the items of a row's history left out of the
            ranking, which is what `recommend`, `explain` and `evaluate` do unless told otherwise.

    Examples:
        >>> import rearec
        >>> from rearec.data.synthetic import Planted, generate
        >>> dataset = generate(0, planted=Planted(users=50))
        >>> model = rearec.fit(dataset, epochs=2, dim=8, max_len=20, progress=False)
        >>> model.recommend(users=dataset.user_ids[:2], k=3, frame=True).shape
        (6, 7)
        >>> sorted(model.evaluate(metrics=["hit@5"]))[:2]
        ['empty_history_rows', 'hit@5']
        >>> model.save("run").name
        'run'
    """

    def __init__(
        self,
        run: str | Path,
        *,
        data: str | Path | SequenceDataset | None = None,
        backbone: Backbone | str | None = None,
        trust_code: bool = False,
        device: torch.device | str | None = None,
        batch_rows: int = 256,
        precision: StatePrecision = "fp32",
        keep: TemporaryFolder | None = None,
    ) -> None:
        folder = RunFolder(run)
        folder.check_finished()
        where = device_of(device)
        super().__init__(
            folder.path,
            backbone=backbone,
            trust_code=trust_code,
            device=where,
            batch_rows=batch_rows,
            precision=precision,
        )
        self.run = folder.path
        self._keep = keep
        if data is not None and not isinstance(data, str | Path | SequenceDataset):
            raise TypeError(f"data: got a {type(data).__name__}, expected a dataset or the path of one")
        self._data = data
        # Of the model as it is: its folder may be deleted, or hold a longer training by then.
        self._record = (folder.result(), folder.metrics(), settings_of_run(folder)[1])
        # Runs from before there was a choice kept seen items.
        self.excludes_seen = bool(folder.excludes_seen())
        if isinstance(data, SequenceDataset):
            _check_same(folder, data, "data")
        self._add_titles(folder)

    @cached_property
    def dataset(self) -> SequenceDataset:
        """The dataset that the model was trained on, opened when it is first asked for.

        Raises:
            UserError: it is not where it was, or is another one; ``rearec.load(run, data=...)`` says where it is.
        """
        if isinstance(self._data, SequenceDataset):
            return self._data
        path = self.dataset_path
        assert path is not None
        dataset = load_dataset(path)
        _check_same(RunFolder(self.run), dataset, path)
        return dataset

    @property
    def dataset_path(self) -> str | Path | None:
        """Where the dataset is; None where it is in memory.

        Raises:
            UserError: as `dataset`.
        """
        if self._data is None:
            return RunFolder(self.run).dataset_path("rearec.load(run, data=...)")
        return None if isinstance(self._data, SequenceDataset) else self._data

    @property
    def config(self) -> ReaRecConfig:
        """The model's settings."""
        return self.model.config

    @property
    def result(self) -> dict[str, Any]:
        """Best epoch, validation and test metrics, as `rearec.training.train` returned them."""
        return deepcopy(self._record[0])

    @property
    def history(self) -> list[dict[str, int | float | None]]:
        """A row for each epoch: its losses, validation metrics, learning rate and times."""
        return [{name: _number(value) for name, value in row.items()} for row in self._record[1]]

    @property
    def advice(self) -> list[str]:
        """What may make the training better, a line each; empty where nothing is to be said.

        Said of a test NDCG@20 below that of a floor, and of one that still rose at the end.
        """
        return [called_in_python(line) for line in advice(*self._record)]

    def evaluate(
        self,
        split: SplitName = "test",
        metrics: Sequence[str] | None = None,
        *,
        exclude_seen: bool | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Metrics on one split of the dataset, beside those of the floors on the same rows.

        Args:
            split: "train", "valid" or "test".
            metrics: by name, such as "ndcg@5" or "coverage@20"; None for NDCG and Recall at 10 and 20 and MRR.
            exclude_seen: whether the items of a row's history are left out of the ranking; None: as the run was
                trained.
            options: the other arguments of `rearec.evaluation.evaluate`; the precision is that of this model.

        Returns:
            as `rearec.evaluation.evaluate`.

        Raises:
            UserError: the dataset is not there (see `dataset`), or as `rearec.evaluation.evaluate`.
        """
        RunFolder(self.run).check_held_out()
        exclude = self.excludes_seen if exclude_seen is None else exclude_seen
        options.setdefault("precision", self._engine.precision)
        return evaluate(self.model, self.dataset, split, metrics=metrics, exclude_seen=exclude, **options)

    @overload
    def recommend(
        self,
        histories: Iterable[object] | None = ...,
        k: int = ...,
        *,
        users: object = ...,
        allow: object = ...,
        deny: object = ...,
        exclude_seen: bool | None = ...,
        steps: int | None = ...,
        frame: Literal[False] = ...,
    ) -> list[Recommendation]: ...

    @overload
    def recommend(
        self,
        histories: Iterable[object] | None = ...,
        k: int = ...,
        *,
        users: object = ...,
        allow: object = ...,
        deny: object = ...,
        exclude_seen: bool | None = ...,
        steps: int | None = ...,
        frame: Literal[True],
    ) -> pl.DataFrame: ...

    def recommend(
        self,
        histories: Iterable[object] | None = None,
        k: int = 10,
        *,
        users: object = None,
        allow: object = None,
        deny: object = None,
        exclude_seen: bool | None = None,
        steps: int | None = None,
        frame: bool = False,
    ) -> list[Recommendation] | pl.DataFrame:
        """The best k items after each history, or for each user of the dataset.

        Args:
            histories: as `Recommender.recommend` takes them.
            users: in place of histories, ids of users of the dataset, or "all": the history of each is all that the
                dataset knows of the user, validation and test items included (`known_history`).
            exclude_seen: leave out the items of the history; None: as the run was trained, which is what its metrics
                are about.
            k, allow, deny, steps: as `Recommender.recommend` takes them.
            frame: answer with a polars DataFrame, with a column ``user`` where users were given.

        Raises:
            UserError: a user is not in the dataset, or the dataset is not there (see `dataset`).
            ValueError, TypeError: as `Recommender.recommend`; neither histories nor users, or both.
        """
        if (histories is None) == (users is None):
            raise ValueError("give histories or users, and not both")
        asked = None if users is None else self._histories.users(users)
        if asked is not None:
            histories = [self._histories.of(user) for user in asked]
        assert histories is not None
        exclude = self.excludes_seen if exclude_seen is None else exclude_seen
        answers = super().recommend(histories, k, allow=allow, deny=deny, exclude_seen=exclude, steps=steps)
        return as_frame(answers, users=asked) if frame else answers

    def explain(
        self,
        history: Iterable[object],
        k: int = 5,
        *,
        item: str | int | None = None,
        exclude_seen: bool | None = None,
    ) -> Explanation:
        """As `Recommender.explain`; exclude_seen: None: as the run was trained, as `recommend` has it."""
        exclude = self.excludes_seen if exclude_seen is None else exclude_seen
        return super().explain(history, k, item=item, exclude_seen=exclude)

    def known_history(self, user: str | int) -> list[str]:
        """The ids of all items that the dataset knows of a user, oldest first.

        Of a user with several sequences, as a given split may have, it is the longest one.

        Raises:
            UserError: there is no such user.
        """
        return self._histories.of(user)

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Copy the RUN folder, with checkpoints and logs; `load` and every command take it. Returns its path.

        Raises:
            UserError: something else is there, or a run, which ``force`` replaces; or the copy cannot be written.
        """
        target = RunFolder(path)
        own, other = self.run.resolve(), target.path.resolve()
        if own == other:
            return target.path
        if own in other.parents or other in own.parents:
            raise UserError(f"{target.path}: is inside of {self.run}, or the other way round; choose another folder")
        if not own.is_dir():
            raise UserError(f"{self.run}: the model's RUN folder is gone, there is nothing to copy")
        with python_errors():
            target.check_writable(force=force, resumable=False)
        aside = target.path.with_name(partial_name(target.path.name))
        try:
            shutil.rmtree(aside, ignore_errors=True)
            shutil.copytree(self.run, aside)
            if target.path.exists():
                shutil.rmtree(target.path)
            aside.rename(target.path)
        except (OSError, shutil.Error) as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise UserError(f"{target.path}: cannot be written: {error}") from error
        return target.path

    def __repr__(self) -> str:
        return "\n".join([f"FittedModel({in_words(self.config)}; {self.run})", *result_lines(self.result)])

    def _repr_html_(self) -> str:
        return result_html(f"{in_words(self.config)}; {self.run}", self.config.method, self.result)

    @cached_property
    def _histories(self) -> UserHistories:
        return UserHistories(self.dataset)

    def _add_titles(self, folder: RunFolder) -> None:
        """A run from before runs kept the titles has those of its dataset, where that is still there."""
        if self.catalog.titles is not None or folder.keeps_titles():
            return
        try:
            self.catalog = replace(self.catalog, titles=self.dataset.item_titles)
        except UserError:
            return  # it answers without


def load(
    run: str | Path,
    data: str | Path | SequenceDataset | None = None,
    *,
    backbone: Backbone | str | None = None,
    trust_code: bool = False,
    device: torch.device | str | None = None,
    precision: StatePrecision = "fp32",
) -> FittedModel:
    """The model of a finished training.

    Args:
        run: its RUN folder, as `fit`, `FittedModel.save` or ``rearec train`` wrote it.
        data: its dataset, or where that is; None: where it was. It is opened when it is first needed, and must be the
            one that the model was trained on.
        backbone: for a model with an encoder of one's own, that encoder; its weights are replaced.
        trust_code: whether the code may be run that the model names for its encoder (``module:factory``).
        device: where to compute: "cpu", "cuda", "cuda:N"; None or "auto": a GPU where there is one.
        precision: as `Recommender` takes it.

    Raises:
        UserError: the folder is missing, unfinished or damaged, ``data`` is another dataset, there is no such device,
            or an unknown precision.

    Examples:
        >>> import rearec
        >>> from rearec.data.synthetic import Planted, generate
        >>> dataset = generate(0, planted=Planted(users=50))
        >>> model = rearec.fit(dataset, out="run", epochs=1, dim=8, max_len=20, progress=False)
        >>> again = rearec.load("run", data=dataset)
        >>> again.recommend(users="all") == model.recommend(users="all")
        True
    """
    return FittedModel(run, data=data, backbone=backbone, trust_code=trust_code, device=device, precision=precision)


def _check_same(folder: RunFolder, dataset: SequenceDataset, called: str | Path) -> None:
    folder.check_fingerprint(dataset.fingerprint, called)


def _number(value: str) -> int | float | None:
    """A value of metrics.csv."""
    if not value:
        return None
    return int(value) if value.isdecimal() else float(value)
