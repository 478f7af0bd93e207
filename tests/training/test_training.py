"""Training: the RUN folder, logs, early stopping, schedules, refusals, and what it leaves of the user's state."""

from __future__ import annotations

import csv
import json
import logging
import pickle
import resource
import shutil
import signal
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from rearec import objectives
from rearec.data import SequenceDataset, load_dataset
from rearec.errors import UserError
from rearec.evaluation import evaluate
from rearec.files import write_json
from rearec.models.config import ReaRecConfig
from rearec.reasoning import ReaRec
from rearec.run_folder import RunFolder
from rearec.training import TrainingOptions, train
from rearec.training.module import TrainingModule, learning_rate_factor
from rearec.training.recorder import AtomicCheckpointIO, load_checkpoint

OPTIONS = TrainingOptions(epochs=2, batch_rows=256, lr=1e-2)


@pytest.fixture(scope="module")
def dataset(prepared: Path) -> SequenceDataset:
    return load_dataset(prepared)


def small_config(method: str = "prl", **settings: Any) -> ReaRecConfig:
    values = {"dim": 16, "ffn": 16, "layers": 1, "max_len": 8, "dropout": 0.1, "alpha": 1.5, "warmup": 1, **settings}
    return ReaRecConfig(40, method=method, **values)


def read_metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_finished_run_holds_model_options_logs_and_result(run_folder: Path, prepared: Path) -> None:
    rows = read_metrics(run_folder)
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    for column in ("train_loss", "train_cross_entropy", "train_contrastive", "valid_ndcg@20", "valid_mrr"):
        assert all(float(row[column]) >= 0 for row in rows), column
    # the contrastive term begins after the warm-up of one epoch
    assert [float(row["train_contrastive"]) > 0 for row in rows] == [False, True, True, True]
    assert list((run_folder / "tensorboard").glob("events.out.tfevents.*"))
    assert load_file(run_folder / "model.safetensors")
    options = json.loads((run_folder / "options.json").read_text())
    assert options["dataset"]["path"] == str(prepared)
    assert options["model"]["method"] == json.loads((run_folder / "config.json").read_text())["method"] == "prl"
    assert options["training"]["batch_rows"] == 128


def test_the_result_is_that_of_the_best_epoch(run_folder: Path) -> None:
    result, rows = RunFolder(run_folder).result(), read_metrics(run_folder)
    valid = [float(row["valid_ndcg@20"]) for row in rows]
    assert result["best_epoch"] == valid.index(max(valid)) + 1
    assert result["valid"]["ndcg@20"] == pytest.approx(max(valid), rel=1e-12)
    assert result["test"]["ndcg@20"] > result["test"]["popularity"]["ndcg@20"]


def test_tensorboard_has_the_terms_and_metrics_of_every_epoch(run_folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_folder / "tensorboard"))
    events.Reload()
    for name in ("train_loss", "train_contrastive", "valid_ndcg@20"):
        assert len(events.Scalars(name)) == 4


def test_the_same_seed_gives_the_same_model_and_another_seed_another(dataset: SequenceDataset, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(len(name) + seed)
        train(dataset, tmp_path / name, small_config(), replace(OPTIONS, seed=seed))
    first, second, third = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert first == second != third


def test_the_user_keeps_random_state_threads_handlers_and_log_levels(dataset: SequenceDataset, tmp_path: Path) -> None:
    logger = logging.getLogger("lightning.pytorch")
    before = (
        torch.get_rng_state(),
        torch.get_num_threads(),
        signal.getsignal(signal.SIGINT),
        signal.getsignal(signal.SIGTERM),
        logger.level,
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    )
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        train(dataset, tmp_path / "run", small_config(), OPTIONS)
    after = (
        torch.get_rng_state(),
        torch.get_num_threads(),
        signal.getsignal(signal.SIGINT),
        signal.getsignal(signal.SIGTERM),
        logger.level,
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    )
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    assert not [str(warning.message) for warning in seen if "lightning" in str(warning.filename)]


@pytest.mark.parametrize("method", ["base", "naive", "rpe", "erl"])
def test_every_method_trains_and_logs_its_terms(method: str, dataset: SequenceDataset, tmp_path: Path) -> None:
    result = train(dataset, tmp_path / "run", small_config(method), OPTIONS)
    assert result["test"]["rows"] == 150
    rows = read_metrics(tmp_path / "run")
    assert ("train_kl" in rows[0]) == (method == "erl")
    assert float(rows[1]["train_cross_entropy"]) < float(rows[0]["train_cross_entropy"])


def test_bf16_trains(dataset: SequenceDataset, tmp_path: Path) -> None:
    result = train(dataset, tmp_path / "run", small_config("erl"), replace(OPTIONS, precision="bf16", clip=1.0))
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert all(weight.dtype is torch.float32 for weight in weights.values())
    assert result["test"]["ndcg@20"] > 0


@pytest.mark.parametrize("method", ["base", "erl", "prl"])
def test_the_precision_reaches_every_loss(method: str, dataset: SequenceDataset, monkeypatch: Any) -> None:
    seen = []
    for name in ("annealed_cross_entropy", "ensemble_reasoning_loss", "reasoning_info_nce"):
        monkeypatch.setattr(objectives, name, _noting_precision(getattr(objectives, name), seen))
    module = TrainingModule(ReaRec(small_config(method, warmup=0)), dataset, replace(OPTIONS, precision="bf16"))
    module.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    module.training_step(next(iter(module.train_dataloader())), 0)
    assert seen == ["bf16"] * (2 if method == "prl" else 1)


def _noting_precision(function: Any, seen: list[str]) -> Any:
    def noting(*arguments: Any, **options: Any) -> Any:
        seen.append(options["precision"])
        return function(*arguments, **options)

    return noting


def test_a_precision_out_of_reach_is_said_before_anything_is_written(dataset: SequenceDataset, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("annealed_cross_entropy: precision 'bf16x3' needs CPU tensors")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match=r"'bf16x3' is out of reach here.*CPU"):
        patch.setattr("rearec.training.loop.annealed_cross_entropy", refuse)
        train(dataset, tmp_path / "run", small_config("prl"), replace(OPTIONS, precision="bf16x3"))
    assert not (tmp_path / "run").exists()


def test_validation_ranks_by_the_weights_of_its_epoch(dataset: SequenceDataset, tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=4, batch_rows=64)
    result = train(dataset, tmp_path / "run", small_config(), options)
    rows = read_metrics(tmp_path / "run")
    best = rows[result["best_epoch"] - 1]
    assert float(best["valid_mrr"]) == pytest.approx(result["valid"]["mrr"], rel=1e-6)
    last = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["state_dict"]
    model = ReaRec(small_config())
    model.load_state_dict({name.removeprefix("model."): value for name, value in last.items()})
    assert float(rows[-1]["valid_mrr"]) == pytest.approx(evaluate(model, dataset, "valid")["mrr"], rel=1e-6)


def test_pairing_changes_nothing_but_the_work(dataset: SequenceDataset, tmp_path: Path) -> None:
    config = small_config("erl", dropout=0.0, input_dropout=0.0)
    # one batch holds all rows, so that its loss is that of the initial weights
    losses = []
    for pairing in ("shared", "separate"):
        options = TrainingOptions(epochs=1, batch_rows=10_000, pairing=pairing)
        train(dataset, tmp_path / pairing, config, options)
        losses.append(float(read_metrics(tmp_path / pairing)[0]["train_loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_training_stops_when_the_patience_is_over(dataset: SequenceDataset, tmp_path: Path) -> None:
    # nothing changes at this learning rate, so the first epoch stays the best
    options = TrainingOptions(epochs=20, patience=3, batch_rows=1024, lr=1e-30)
    result = train(dataset, tmp_path / "run", small_config("base"), options)
    assert (result["best_epoch"], result["epochs"], result["stopped_early"]) == (1, 4, True)


def test_a_run_killed_between_its_last_epoch_and_its_result_is_only_finished(
    dataset: SequenceDataset, tmp_path: Path
) -> None:
    options = TrainingOptions(epochs=20, patience=2, batch_rows=1024, lr=1e-30)
    whole = train(dataset, tmp_path / "run", small_config("base"), options)
    (tmp_path / "run" / "result.json").unlink()
    (tmp_path / "run" / "model.safetensors").unlink()
    epochs: list[dict[str, Any]] = []
    again = train(dataset, tmp_path / "run", small_config("base"), options, resume=True, on_epoch=epochs.append)
    assert again == whole and epochs == []


def test_an_interrupt_reaches_the_caller_and_the_run_can_be_resumed(dataset: SequenceDataset, tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)

    def interrupt(epoch: int, done: int, total: int) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path / "run", small_config(), OPTIONS, on_batch=interrupt)
    assert signal.getsignal(signal.SIGINT) is handler
    assert not RunFolder(tmp_path / "run").finished
    resumed = train(dataset, tmp_path / "run", small_config(), OPTIONS, resume=True)
    assert resumed == train(dataset, tmp_path / "whole", small_config(), OPTIONS)


def test_resume_without_a_checkpoint_starts_anew(dataset: SequenceDataset, tmp_path: Path) -> None:
    def interrupt(epoch: int, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path / "run", small_config(), OPTIONS, on_batch=interrupt)
    with pytest.raises(UserError, match="already holds a training"):
        train(dataset, tmp_path / "run", small_config(), OPTIONS)
    result = train(dataset, tmp_path / "run", small_config("base"), OPTIONS, resume=True)
    assert result["epochs"] == 2


def test_a_run_is_replaced_by_force_only_and_other_folders_never(dataset: SequenceDataset, tmp_path: Path) -> None:
    train(dataset, tmp_path / "run", small_config("base"), OPTIONS)
    with pytest.raises(UserError, match="--resume continues it, --force replaces it"):
        train(dataset, tmp_path / "run", small_config("base"), OPTIONS)
    train(dataset, tmp_path / "run", small_config("erl"), OPTIONS, force=True)
    assert RunFolder(tmp_path / "run").options()["model"]["method"] == "erl"

    (tmp_path / "other").mkdir()
    for name in ("thesis.txt", "options.json"):
        (tmp_path / "other" / name).write_text("{}")
        for how in ({"force": True}, {"resume": True}):
            with pytest.raises(UserError, match="is not a RUN folder"):
                train(dataset, tmp_path / "other", small_config("base"), OPTIONS, **how)
    assert (tmp_path / "other" / "thesis.txt").read_text() == "{}"


def test_force_keeps_the_run_when_the_new_one_cannot_begin(
    dataset: SequenceDataset, run_folder: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(run_folder, tmp_path / "run")
    with pytest.raises(UserError, match=r"no memory for a model of 40 items, .* max_len 2147483647, steps 2"):
        train(dataset, run, small_config(max_len=2**31 - 1, dim=2**17, heads=2**7), OPTIONS, force=True)
    assert (run / "result.json").read_bytes() == (run_folder / "result.json").read_bytes()


def test_another_split_of_the_same_data_is_no_dataset_to_resume_on(dataset: SequenceDataset, tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=1)
    train(dataset, tmp_path / "run", small_config("base"), options)
    rows = dict(dataset.split_rows)
    rows["test"], rows["valid"] = rows["valid"], rows["test"]
    with pytest.raises(UserError, match="which was trained on other data or on another split of it"):
        train(replace(dataset, split_rows=rows), tmp_path / "run", small_config("base"), options, resume=True)
    with pytest.raises(UserError, match="was started with model option method = 'base', not 'erl'"):
        train(dataset, tmp_path / "run", small_config("erl"), options, resume=True)


def test_weights_that_overflow_in_the_last_step_are_reported(dataset: SequenceDataset, tmp_path: Path) -> None:
    # one batch: its loss is that of the initial weights
    options = TrainingOptions(epochs=1, batch_rows=10_000, lr=1e38)
    with pytest.raises(UserError, match="the model's weights are no longer finite in epoch 1: try a lower --lr"):
        train(dataset, tmp_path / "run", small_config("base"), options)
    assert not RunFolder(tmp_path / "run").finished


def test_files_that_cannot_be_written_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    messages = []
    writers = (("a.json", write_json), ("b", lambda path, value: AtomicCheckpointIO().save_checkpoint(value, path)))
    for name, write in writers:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            write(Path(name), {"a": "a" * 100_000})
        except UserError as error:
            messages.append(str(error))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert messages == [
        "a.json: cannot be written: File too large",
        "b: cannot be written: [Errno 27] File too large",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_written_is_an_error_that_names_the_run(
    dataset: SequenceDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: ReaRec, directory: Path, **_: Any) -> None:
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(ReaRec, "save_pretrained", fail)
    with pytest.raises(UserError, match=rf"{tmp_path / 'run'}: the model cannot be written: .*No space left"):
        train(dataset, tmp_path / "run", small_config("base"), replace(OPTIONS, epochs=1))
    assert not RunFolder(tmp_path / "run").finished


def test_a_loss_that_is_no_number_is_reported(dataset: SequenceDataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the training loss is nan in epoch \d+: try a lower --lr"):
        train(dataset, tmp_path / "run", small_config("base"), TrainingOptions(epochs=5, batch_rows=64, lr=1e36))
    assert not RunFolder(tmp_path / "run").finished


def test_a_dataset_without_validation_rows_is_refused(dataset: SequenceDataset, tmp_path: Path) -> None:
    rows = dict(dataset.split_rows)
    rows["valid"] = rows["valid"][:0]
    with pytest.raises(UserError, match="no valid rows to choose the best epoch by"):
        train(replace(dataset, split_rows=rows), tmp_path / "run", small_config("base"), OPTIONS)


def test_a_checkpoint_cannot_run_code(dataset: SequenceDataset, tmp_path: Path) -> None:
    def interrupt(epoch: int, done: int, total: int) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    class Harmful:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "harmed",)

    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path / "run", small_config("base"), OPTIONS, on_batch=interrupt)
    torch.save({"state_dict": Harmful()}, tmp_path / "run" / "checkpoints" / "last.ckpt", pickle_module=pickle)
    with pytest.raises(UserError, match=r"last\.ckpt: not a readable checkpoint"):
        train(dataset, tmp_path / "run", small_config("base"), OPTIONS, resume=True)
    assert not (tmp_path / "harmed").exists()


def test_learning_rate_rises_then_follows_its_schedule() -> None:
    constant = TrainingOptions(lr_warmup=4)
    assert [learning_rate_factor(constant, step, 100) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    linear = TrainingOptions(schedule="linear")
    assert [learning_rate_factor(linear, step, 4) for step in range(6)] == [1, 0.75, 0.5, 0.25, 0, 0]
    cosine = TrainingOptions(schedule="cosine", lr_warmup=2)
    factors = [learning_rate_factor(cosine, step, 6) for step in range(7)]
    assert factors == pytest.approx([0.5, 1, 1, 0.853553, 0.5, 0.146447, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs: got 0, expected an integer, 1 or more"),
        ({"lr": 0.0}, "lr: got 0.0, expected a finite number above 0"),
        ({"lr": "0.1"}, "lr: got '0.1', expected a finite number above 0"),
        ({"seed": 2**63}, "seed: got 9223372036854775808, expected an integer in"),
        ({"clip": float("nan")}, "clip: got nan"),
        ({"schedule": "step"}, "schedule: got 'step', expected one of constant, cosine, linear"),
        ({"precision": "fp16"}, "precision: got 'fp16', expected one of fp32, bf16, bf16x3"),
        ({"pairing": "both"}, "pairing: got 'both', expected one of shared, overlapping, separate"),
    ],
)
def test_wrong_options_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**settings)
