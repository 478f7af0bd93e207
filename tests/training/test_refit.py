"""The final fit: every interaction is trained on, and nothing is said to have been measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rearec import Recommender
from rearec.data import SequenceDataset, load_dataset
from rearec.errors import UserError
from rearec.run_folder import RunFolder
from rearec.training import refit, train
from rearec.training.resuming import settings_of_run


def test_every_position_with_a_history_is_a_training_row(prepared: Path) -> None:
    dataset = load_dataset(prepared)
    whole = dataset.for_refit()
    lengths = np.diff(dataset.offsets)
    assert len(whole.rows("train")) == (lengths - 1).sum()
    assert len(whole.rows("valid")) == len(whole.rows("test")) == 0
    known = {tuple(row) for row in whole.rows("train").tolist()}
    for split in ("train", "valid", "test"):
        assert known >= {tuple(row) for row in dataset.rows(split).tolist() if row[1]}  # type: ignore[arg-type]
    assert whole.rows("train").dtype == np.int32 and (np.diff(whole.rows("train")[:, 0]) >= 0).all()
    assert (whole.train_item_counts() == np.bincount(dataset.items, minlength=dataset.num_items)).all()


def test_of_further_sequences_the_given_rows_alone_are_trained_on() -> None:
    def rows(*pairs: tuple[int, int]) -> np.ndarray:
        return np.array(pairs, dtype=np.int32).reshape(-1, 2)

    # the second sequence is the first user's too: it repeats a history of two items and adds one
    dataset = SequenceDataset(
        items=np.array([0, 1, 2, 0, 2, 3, 4], dtype=np.int32),
        offsets=np.array([0, 3, 6, 7]),
        sequence_user=np.array([0, 0, 1], dtype=np.int32),
        split_rows={"train": rows((0, 1)), "valid": rows((0, 2)), "test": rows((1, 2), (2, 0))},
        item_ids=list("abcde"),
        user_ids=["ann", "bob"],
        statistics={},
    )
    whole = dataset.for_refit()
    assert whole.rows("train").tolist() == [[0, 1], [0, 2], [1, 2]]
    assert whole.train_item_counts().tolist() == [1, 1, 1, 1, 1]
    assert whole.targets("train").tolist() == [1, 2, 3]


def test_a_refit_trains_the_chosen_settings_for_the_best_epochs(
    run_folder: Path, prepared: Path, tmp_path: Path
) -> None:
    epochs: list[dict[str, object]] = []
    result = refit(run_folder, tmp_path / "final", on_epoch=epochs.append)
    chosen = RunFolder(run_folder).result()
    assert result["epochs"] == result["best_epoch"] == chosen["best_epoch"] == len(epochs)
    assert result["valid"] is result["test"] is None and result["refit_of"]["test"] == chosen["test"]
    assert not any(name.startswith("valid_n") for row in epochs for name in row)
    final = RunFolder(tmp_path / "final")
    assert final.result() == result
    card = (final.path / "README.md").read_text(encoding="utf-8")
    assert f"None: trained on every interaction, {len(epochs)} epochs long" in card and "NDCG@20 |" not in card
    assert settings_of_run(final)[0] == settings_of_run(RunFolder(run_folder))[0]
    dataset = load_dataset(prepared)
    assert sum(final.catalog().popularity) == dataset.num_interactions
    final.check_fingerprint(dataset.fingerprint, prepared)
    history = [dataset.item_ids[item] for item in dataset.sequence(0)]
    assert len(Recommender(tmp_path / "final").recommend([history], 5)[0].items) == 5


def test_a_refit_says_that_it_cannot_be_measured_resumed_or_refitted(
    run_folder: Path, prepared: Path, tmp_path: Path
) -> None:
    refit(run_folder, tmp_path / "final", data=load_dataset(prepared), epochs=1)
    final = RunFolder(tmp_path / "final")
    assert final.result()["epochs"] == 1
    with pytest.raises(UserError, match="a refit, trained on every interaction: its metrics would say nothing"):
        final.check_held_out()
    with pytest.raises(UserError, match="a refit, trained on every interaction"):
        refit(final.path, tmp_path / "again")
    with pytest.raises(UserError, match="is a refit, which cannot be resumed"):
        train(prepared, final.path, *settings_of_run(final), resume=True)
    with pytest.raises(UserError, match="--resume continues it, --force replaces it"):
        refit(run_folder, final.path)
    with pytest.raises(UserError, match="is the run to refit; choose another folder"):
        refit(run_folder, run_folder, force=True)


def test_a_refit_needs_the_data_of_its_run(run_folder: Path, prepared: Path, tmp_path: Path) -> None:
    other = load_dataset(prepared).for_refit()
    with pytest.raises(UserError, match="the dataset: not the dataset of"):
        refit(run_folder, tmp_path / "final", data=other)
    assert not (tmp_path / "final").exists()
