"""``rearec analyze``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rearec.cli.command import Common, ExcludeSeen, Force, command
from rearec.cli.finished_run import dataset_path, seen_of_run
from rearec.cli.output import emit, note, progress_bar
from rearec.cli.process import compute_device
from rearec.data.words import SplitName
from rearec.errors import UserError
from rearec.files import check_folder

if TYPE_CHECKING:
    from rearec.cli.terminal import Terminal
    from rearec.data.dataset import SequenceDataset
    from rearec.evaluation.seen import SeenName
    from rearec.reasoning import ReaRec
    from rearec.report.page import Page
    from rearec.run_folder import RunFolder

__all__ = ["register"]


@dataclass(frozen=True)
class Subject:
    """What an analysis looks at: RUN first, then those of --against; options: those of its own, by flag.

    exclude_seen: whether seen items are left out where targets or items are ranked.
    """

    folders: list[RunFolder]
    models: list[ReaRec]
    dataset: SequenceDataset
    split: SplitName
    options: dict[str, int]
    seed: int
    exclude_seen: bool

    @property
    def seen(self) -> SeenName:
        from rearec.evaluation.seen import seen_name

        return seen_name(self.exclude_seen)

    @property
    def model(self) -> ReaRec:
        return self.models[0]

    @property
    def rows(self) -> tuple[ReaRec, SequenceDataset, SplitName]:
        """The model of RUN, and the rows that it is asked about."""
        return self.model, self.dataset, self.split

    @property
    def names(self) -> list[str]:
        """A name for each model, no two alike; the method comes first, it decides the colour."""
        methods = [model.config.method for model in self.models]
        paths = [folder.path for folder in self.folders]
        names = [f"{method}: {path.resolve().name}" for method, path in zip(methods, paths, strict=True)]
        if len(set(names)) < len(names):
            names = [f"{method}: {path}" for method, path in zip(methods, paths, strict=True)]
        if len(set(names)) < len(names):
            raise UserError("--against: names a run twice")
        return names


def _steps(subject: Subject, page: Page) -> Any:
    from rearec.analysis import steps

    with progress_bar(f"ranking {subject.split} rows") as progress:
        result = steps.metrics_by_step(*subject.rows, exclude_seen=subject.exclude_seen, progress=progress)
    steps.page(page, {subject.names[0]: result})
    return result


def _ceiling(subject: Subject, page: Page) -> Any:
    import numpy as np

    from rearec.analysis import ceiling
    from rearec.evaluation import rank_rows

    _check_control(subject)
    rank = partial(rank_rows, dataset=subject.dataset, split=subject.split, exclude_seen=subject.exclude_seen)
    with progress_bar(f"ranking {subject.split} rows") as progress:
        by_step = rank(subject.model, per_step=True, progress=progress).by_step
    assert by_step is not None
    of_base = [rank(model).final for model in subject.models[1:]]
    result = ceiling.ceiling(by_step, np.stack(of_base, axis=1) if of_base else None, seed=subject.seed)
    ceiling.page(page, {subject.names[0]: result}, seen=subject.seen)
    return asdict(result)


def _check_control(subject: Subject) -> None:
    """UserError unless the runs of --against are a control for the model, or there are none."""
    control = list(zip(subject.folders, subject.models, strict=True))[1:]
    if not control:
        return
    states = subject.model.config.steps + 1
    if len(control) != states:
        raise UserError(f"--against: got {len(control)} runs, expected {states} base runs: one for each state of RUN")
    seeds: dict[Any, Path] = {}
    for folder, model in control:
        if model.config.method != "base":
            raise UserError(f"--against: {folder.path} is of method {model.config.method}; the control is of base runs")
        seed = folder.options()["training"].get("seed")
        if seed in seeds:
            raise UserError(
                f"--against: {seeds[seed]} and {folder.path} have the same seed {seed}: no independent runs"
            )
        seeds[seed] = folder.path


def _subgroups(subject: Subject, page: Page) -> Any:
    from rearec.analysis import subgroups

    models = dict(zip(subject.names, subject.models, strict=True))
    with progress_bar(f"ranking {subject.split} rows"):
        result = subgroups.subgroups(models, subject.dataset, subject.split, exclude_seen=subject.exclude_seen)
    subgroups.page(page, result)
    return result


def _latency(subject: Subject, page: Page) -> Any:
    import torch

    from rearec.analysis import latency

    with progress_bar("measuring"):
        result = latency.latency(
            *subject.rows, rows=subject.options["--rows"], repeats=subject.options["--repeats"], seed=subject.seed
        )
    on = subject.model.device
    device = torch.cuda.get_device_name(on) if on.type == "cuda" else f"a CPU, {torch.get_num_threads()} threads"
    latency.page(page, {subject.names[0]: result}, device=device)
    return result


def _similarity(subject: Subject, page: Page) -> Any:
    from rearec.analysis import similarity

    with progress_bar("encoding rows"):
        result = similarity.similarity(*subject.rows, max_rows=subject.options["--rows"], seed=subject.seed)
    similarity.page(page, {subject.names[0]: result})
    return result.tolist()


def _ranks(subject: Subject, page: Page) -> Any:
    from rearec.analysis import ranks

    with progress_bar(f"ranking {subject.split} rows") as progress:
        result = ranks.rank_by_step(*subject.rows, exclude_seen=subject.exclude_seen, progress=progress)
    ranks.page(page, {subject.names[0]: result}, seen=subject.seen)
    return result


def _case(subject: Subject, page: Page) -> Any:
    from rearec.analysis import case

    with progress_bar(f"ranking {subject.split} rows"):
        count, k = subject.options["--cases"], subject.options["-k"]
        result = case.cases(*subject.rows, exclude_seen=subject.exclude_seen, count=count, k=k)
    case.page(page, result, seen=subject.seen)
    return [asdict(each) for each in result]


@dataclass(frozen=True)
class Analysis:
    """An analysis: what heads its page, and what fills it and returns the result for ``--json``.

    options: those of its own, and what they are where they are not given. ranks: whether it ranks targets or items.
    compares: whether it looks at other runs beside RUN.
    """

    title: str
    show: Callable[[Subject, Page], Any]
    options: Mapping[str, int] = field(default_factory=dict)
    ranks: bool = True
    compares: bool = False


ANALYSES = {
    "steps": Analysis("Metrics by reasoning step", _steps),
    "ceiling": Analysis("Ceiling: the best step of every row", _ceiling, compares=True),
    "subgroups": Analysis("Subgroups of users and items", _subgroups, compares=True),
    "latency": Analysis(
        "Latency by number of reasoning steps", _latency, {"--rows": 256, "--repeats": 30}, ranks=False
    ),
    "similarity": Analysis("Similarity between reasoning steps", _similarity, {"--rows": 10_000}, ranks=False),
    "ranks": Analysis("Rank of the target by reasoning step", _ranks),
    "case": Analysis("Cases in which reasoning helps most", _case, {"--cases": 3, "-k": 5}),
}
if TYPE_CHECKING:
    Name = str
else:
    Name = Literal[tuple(ANALYSES)]


def _default_of(flag: str) -> str:
    return "; ".join(str(each.options[flag]) for each in ANALYSES.values() if flag in each.options)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(analyze)


@command
def analyze(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished training.")],
    analysis: Annotated[Name, typer.Argument(help="What to look into.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the page, its csv and its figure.")],
    split: Annotated[SplitName, typer.Option(help="Rows to look at.")] = "test",
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The prepared dataset.", show_default="as trained on")
    ] = None,
    exclude_seen: ExcludeSeen = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN",
            help="Other runs on the same data: for ceiling as many base runs as RUN has states (K + 1) with different "
            "seeds, its control; for subgroups the runs to compare with.",
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            min=1, help="latency: histories of a batch; similarity: most rows.", show_default=_default_of("--rows")
        ),
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="latency: measurements.", show_default=_default_of("--repeats"))
    ] = None,
    count: Annotated[
        int | None, typer.Option("--cases", min=1, help="case: how many.", show_default=_default_of("--cases"))
    ] = None,
    k: Annotated[
        int | None, typer.Option("-k", min=1, help="case: items of a ranking.", show_default=_default_of("-k"))
    ] = None,
    force: Force = False,
    common: Common = Common(),
) -> None:
    """Look into a trained model: a Markdown page with its numbers as csv and a figure.

    steps: metrics of each reasoning state taken alone. ceiling: if the best step were known for every row, beside the
    same for base models. subgroups: by history length and target popularity. latency: time by number of steps.
    similarity: cosine between steps. ranks: where the target stands. case: histories on which reasoning helps most.
    """
    asked = ANALYSES[analysis]
    options = _own_options(analysis, {"--rows": rows, "--repeats": repeats, "--cases": count, "-k": k})
    if against and not asked.compares:
        raise UserError(f"--against: belongs to {_listed(each.compares for each in ANALYSES.values())}, not {analysis}")
    if exclude_seen is not None and not asked.ranks:
        option = "--exclude-seen" if exclude_seen else "--keep-seen"
        ranking = _listed(each.ranks for each in ANALYSES.values())
        raise UserError(f"{option}: {analysis} ranks nothing; it belongs to {ranking}")
    from rearec.run_folder import RunFolder

    folders = [RunFolder(path) for path in (run, *(against or []))]
    for folder in folders:
        folder.check_finished()
        if asked.ranks:
            folder.check_held_out()
    _check_out(out, analysis, force)
    data = dataset_path(folders[0], data)

    from rearec.data import load_dataset
    from rearec.reasoning import ReaRec
    from rearec.report.page import Page

    dataset = load_dataset(data)
    for folder in folders:
        folder.check_fingerprint(dataset.fingerprint, data)
    where = compute_device(common.device)
    models = [ReaRec.from_pretrained(folder.path, map_location=where) for folder in folders]
    seen = seen_of_run(folders[0], dataset, exclude_seen) if asked.ranks else None
    for folder in folders[1:]:
        if seen is not None and bool(folder.excludes_seen()) != seen.exclude:
            note(f"{folder.path}: its best epoch was chosen the other way round")
    exclude = seen is not None and seen.exclude
    subject = Subject(folders, models, dataset, split, options, common.seed, exclude)
    page = Page(out, analysis, f"{asked.title}: {subject.names[0]}")
    result = asked.show(subject, page)
    page.write()
    emit(
        {
            "run": str(run),
            "analysis": analysis,
            "split": split,
            **({} if seen is None else {"seen": seen.name}),
            "files": [str(path) for path in page.files],
            "result": result,
        },
        common.as_json,
        lambda console: _render(console, page),
    )


def _own_options(analysis: str, given: Mapping[str, int | None]) -> dict[str, int]:
    """The options of this analysis; UserError for one that is not its own."""
    own = ANALYSES[analysis].options
    for flag, value in given.items():
        if value is not None and flag not in own:
            owners = _listed(flag in each.options for each in ANALYSES.values())
            raise UserError(f"{flag}: belongs to {owners}, not {analysis}")
    return {flag: given[flag] or default for flag, default in own.items()}


def _listed(chosen: Iterable[bool]) -> str:
    """The names of the analyses that are chosen, in words."""
    *first, last = (name for name, is_chosen in zip(ANALYSES, chosen, strict=True) if is_chosen)
    return f"{', '.join(first)} and {last}" if first else last


def _check_out(out: Path, analysis: str, force: bool) -> None:
    """UserError where the page may not or cannot be written, before anything is computed."""
    check_folder(out)
    for extension in ("md", "csv", "png"):
        file = out / f"{analysis}.{extension}"
        if file.exists() and not force:
            raise UserError(f"{file}: exists already; --force replaces it")


def _render(console: Terminal, page: Page) -> None:
    from rich.markdown import Markdown

    console.paragraphs(Markdown(page.markdown))
    console.print()
    for file in page.files:
        console.print(f"written: {file}")
