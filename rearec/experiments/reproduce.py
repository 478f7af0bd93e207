"""Tables and figures of the paper on a prepared dataset: trains what they need, then writes a page for each."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from rearec.data import load_dataset
from rearec.data.dataset import SequenceDataset
from rearec.errors import UserError
from rearec.evaluation.metrics import parse_metrics, row_metrics
from rearec.evaluation.seen import seen_words
from rearec.experiments import ARTEFACTS
from rearec.experiments.ablation import FIG7
from rearec.experiments.artefact import Artefact
from rearec.experiments.dataset_table import TABLE1
from rearec.experiments.method_tables import TABLE2, TABLE3
from rearec.experiments.model_analyses import FIG2, FIG4, FIG8, FIG9, FIG11, TABLE4
from rearec.experiments.plan import Plan, settings_of
from rearec.experiments.pool import Progress, train_all
from rearec.experiments.protocols import protocol_named
from rearec.experiments.published import add_published
from rearec.experiments.results import TABLE_METRICS, Results
from rearec.experiments.runs import Run, training_minutes
from rearec.experiments.search import SEARCH
from rearec.experiments.sensitivity import FIG6
from rearec.experiments.step_sweep import FIG5
from rearec.files import OutputFolder, read_json, write_json
from rearec.report.page import Page, check_formats, escape
from rearec.run_folder import RunFolder

__all__ = ["reproduce"]

_KNOWN = {
    artefact.name: artefact
    for artefact in (TABLE1, TABLE2, TABLE3, TABLE4, FIG2, FIG4, FIG5, FIG6, FIG7, FIG8, FIG9, FIG11, SEARCH)
}
FORMAT_NAME = "rearec-experiments"
MARK = "experiments.json"
RUNS = "runs"
OUTPUT = OutputFolder(lambda folder: (folder / MARK).is_file(), other="holds no experiments; choose another folder")


def reproduce(
    artefacts: Sequence[str],
    data: str | Path,
    out: str | Path,
    *,
    backbones: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    seeds: int = 1,
    first_seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    search_settings: int = 8,
    jobs: int = 1,
    threads: int = 0,
    device: torch.device | str = "cpu",
    budget_minutes: float | None = None,
    formats: Sequence[str] = ("png",),
    metrics: Sequence[str] | None = None,
    protocol: str | None = None,
    force: bool = False,
    on_start: Callable[[int, int], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Train what the tables and figures need and is not there yet, and write their pages.

    Runs are shared by their settings; a call that was killed or whose budget was over goes on where it was.

    Args:
        artefacts: names of ``rearec.experiments.ARTEFACTS``, or "all".
        data: a prepared dataset.
        out: folder for the pages, NAME.md with its csv files and figures, and ``runs/``.
        backbones, methods: instead of each table's and figure's own.
        seeds: how many; they are ``first_seed`` and those after it.
        settings: fields of `ReaRecConfig` and `TrainingOptions` that differ from `rearec.training.presets`.
        search_settings: settings that the search tries for each method.
        jobs, threads, budget_minutes, on_progress: as `train_all`.
        device: where to train and to evaluate.
        formats: of the pages' figures, as `rearec.report.page.Page`.
        metrics: of the tables, by name, such as "hit@5"; those that a training has not left are computed from the
            ranks of its model. None for the protocol's, or NDCG and Recall at 10 and 20, as in the paper.
        protocol: of others, by name (`rearec.experiments.protocols`): its settings go before the presets', and what
            its authors published stands on the pages of tables.
        force: train anew what is there.
        on_start: called with the numbers of trainings that are needed and that are finished.

    Returns:
        ``out``, ``seen`` ("kept" or "excluded", in every ranking), ``pages`` (path by name), ``runs`` (how many they
        need), ``finished`` (how many are), ``missing`` (reason by run), ``failed`` (names of those that failed),
        ``left_out`` (reason by name: what "all" cannot do with this dataset) and ``minutes`` (of training).

    Raises:
        UserError: an unknown name, setting, metric or format, a metric that is not of ranks, a dataset without test
            rows, without the split of the protocol or without the features of a text backbone, an ``out`` that is of
            another dataset or holds something else.
    """
    data, out, device = Path(data), Path(out), torch.device(device)
    check_formats(formats)
    followed = None if protocol is None else protocol_named(protocol)
    dataset = load_dataset(data)
    if not len(dataset.rows("test")):
        raise UserError(f"{data}: the dataset has no test rows to compare models on; choose another split")
    plan = Plan(
        dataset,
        tuple(backbones) if backbones else None,
        tuple(methods) if methods else None,
        seeds,
        first_seed,
        settings or {},
        search_settings,
        protocol=followed,
    )
    usual = _table_metrics(plan)
    names = usual if metrics is None else [each.name for each in parse_metrics(metrics, dataset.num_items)]
    # refuses those that ranks do not tell
    row_metrics([], names)
    chosen, left_out = _choose(artefacts, plan)
    needed = {artefact.name: artefact.runs(plan) for artefact in chosen}
    every = list(dict.fromkeys(run for runs in needed.values() for run in runs))
    _claim(out, dataset, data)
    if on_start is not None:
        on_start(len(every), sum(run.folder(out / RUNS).finished for run in every))
    outcome = train_all(
        data,
        every,
        out / RUNS,
        jobs=jobs,
        threads=threads,
        device=str(device),
        budget_minutes=budget_minutes,
        force=force,
        on_progress=on_progress,
    )
    results = Results(dataset, data, out / RUNS, outcome, device, plan.seen.name, names)
    pages = {}
    for artefact in chosen:
        page = Page(out, artefact.name, f"{artefact.title} ({data.resolve().name})", formats=formats)
        artefact.fill(page, plan, results)
        add_published(page, plan, results, needed[artefact.name])
        _add_origin(page, plan, results, artefact.name, needed[artefact.name], data, out)
        pages[artefact.name] = str(page.write())
    missing = results.missing(every)
    return {
        "out": str(out),
        "seen": plan.seen.name,
        "pages": pages,
        "runs": len(every),
        "finished": len(every) - len(missing),
        "missing": {run.name: reason for run, reason in missing.items()},
        "failed": [run.name for run in outcome.failed],
        "left_out": left_out,
        "minutes": sum(training_minutes(RunFolder(results.folder(run))) for run in every),
    }


def _table_metrics(plan: Plan) -> tuple[str, ...]:
    """Where no others are asked for."""
    return TABLE_METRICS if plan.protocol is None else tuple(plan.protocol.metrics)


def _choose(names: Sequence[str], plan: Plan) -> tuple[list[Artefact], dict[str, str]]:
    """The tables and figures of these names, each once, and what "all" leaves out, with the reason."""
    if "all" not in names:
        for name in names:
            if name not in _KNOWN:
                raise UserError(f"unknown table or figure {name!r}; known are all, {', '.join(ARTEFACTS)}")
        return [_KNOWN[name] for name in dict.fromkeys(names)], {}
    chosen, left_out = [], {}
    for name in ARTEFACTS:
        try:
            _KNOWN[name].runs(plan)
        except UserError as error:
            left_out[name] = str(error)
        else:
            chosen.append(_KNOWN[name])
    return chosen, left_out


def _claim(out: Path, dataset: SequenceDataset, data: Path) -> None:
    """Make the folder, or UserError where it is another dataset's or holds something else."""
    OUTPUT.check(out, replace=True)
    mark = out / MARK
    if mark.is_file():
        found = read_json(mark, "damaged: {}")
        if not isinstance(found, dict) or found.get("fingerprint") != dataset.fingerprint:
            raise UserError(f"{out}: holds experiments on other data than {data}; choose another folder")
        return
    out.mkdir(parents=True, exist_ok=True)
    write_json(mark, {"format": FORMAT_NAME, "fingerprint": dataset.fingerprint})


def _add_origin(
    page: Page, plan: Plan, results: Results, name: str, runs: Sequence[Run], data: Path, out: Path
) -> None:
    """How the page was made: command, data, versions, settings, runs, and what is missing."""
    page.text("## How this was made")
    page.code(_command(plan, name, data, out, results))
    counts = results.dataset.statistics
    lines = [
        f"data: {data.resolve().name}, {counts['users']:,} users, {counts['items']:,} items, "
        f"{counts['interactions']:,} interactions; rows {counts['train_rows']:,} train, "
        f"{counts['valid_rows']:,} valid, {counts['test_rows']:,} test; fingerprint {results.dataset.fingerprint}",
        f"rearec {version('rearec')}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{platform.machine()}, device {results.device}",
        f"{plan.seen}, in the choice of the best epochs as in all rankings",
        f"written {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
    ]
    finished = results.finished(runs)
    if runs:
        minutes = sum(training_minutes(RunFolder(results.folder(run))) for run in runs)
        lines.append(f"{len(finished)} of {len(set(runs))} trainings are finished, {minutes:.1f} minutes in all")
        lines.append(f"settings that all of them share: {_common(runs)}")
    page.text("\n".join(f"- {escape(line)}" for line in lines))
    if finished:
        caption = f"The trainings, validation with {seen_words(results.seen)}, and where they differ:"
        page.table(_runs_table(results, finished), f"{name}-runs", caption=caption, shared={"seen": results.seen})
    missing = results.missing(runs)
    if missing:
        page.text("**Missing:**")
        page.text("\n".join(f"- {escape(f'{run.name}: {reason}')}" for run, reason in missing.items()))


def _command(plan: Plan, name: str, data: Path, out: Path, results: Results) -> str:
    """The command that makes a page, with the names of its folders alone."""
    words = ["rearec", "reproduce", name, data.resolve().name, "--out", out.resolve().name]
    if plan.backbones:
        words += ["--backbones", ",".join(plan.backbones)]
    if plan.methods:
        words += ["--methods", ",".join(plan.methods)]
    if plan.seeds != 1:
        words += ["--seeds", str(plan.seeds)]
    if plan.first_seed:
        words += ["--seed", str(plan.first_seed)]
    if name == SEARCH.name:
        words += ["--search-settings", str(plan.search_settings)]
    if plan.protocol is not None:
        words += ["--protocol", plan.protocol.name]
    for setting, value in plan.settings.items():
        words += ["--set", f"{setting}={value if isinstance(value, str) else json.dumps(value)}"]
    if results.metrics != _table_metrics(plan):
        words += ["--metrics", ",".join(results.metrics)]
    return shlex.join([*words, "--device", str(results.device)])


def _varying(runs: Sequence[Run]) -> list[str]:
    """The settings in which runs differ."""
    settings = [settings_of(run) for run in runs]
    names = dict.fromkeys(name for each in settings for name in each)
    return [name for name in names if len({each[name] for each in settings if name in each}) > 1]


def _common(runs: Sequence[Run]) -> str:
    settings = settings_of(runs[0])
    for run in runs:
        settings = {**settings_of(run), **settings}
    varying = _varying(runs)
    return ", ".join(f"{name} {value}" for name, value in settings.items() if name not in varying)


def _runs_table(results: Results, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Validation figures only: test figures belong to the page's own tables."""
    varying = _varying(runs)
    rows = []
    for run in runs:
        result, settings = results.result(run), settings_of(run)
        cells = {name: settings.get(name) for name in varying}
        rows.append(
            {
                **{name: f"{value:g}" if isinstance(value, float) else value for name, value in cells.items()},
                "best epoch": result["best_epoch"],
                "epochs": result["epochs"],
                "valid NDCG@20": result["valid"]["ndcg@20"],
                "minutes": training_minutes(RunFolder(results.folder(run))),
                "run": run.name,
            }
        )
    return rows
