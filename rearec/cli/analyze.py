"""``rearec analyze``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rearec.analysis.analyses import ANALYSES
from rearec.cli.command import Common, ExcludeSeen, Force, command
from rearec.cli.finished_run import TrustCode, check_code, open_model, seen_of_run
from rearec.cli.output import emit, note, progress_bar
from rearec.cli.processes import Devices, Nodes, Timeout, joined_processes, start_processes
from rearec.data.words import SplitName
from rearec.errors import UserError
from rearec.files import check_folder, check_free

if TYPE_CHECKING:
    from rearec.analysis.analyses import Subject
    from rearec.cli.terminal import Terminal
    from rearec.report.page import Page
    from rearec.run_folder import RunFolder

__all__ = ["register"]

ALL, INDEX = "all", "index"
WORDS = (ALL, *ANALYSES)
if TYPE_CHECKING:
    Name = str
else:
    Name = Literal[WORDS]


def _default_of(name: str) -> str:
    return "; ".join(str(each.options[name]) for each in ANALYSES.values() if name in each.options)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(analyze)


@command(shared=True)
def analyze(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished training.")],
    analysis: Annotated[Name, typer.Argument(metavar="ANALYSIS", help="What to look into; all: every one that fits.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the pages, their csv files and figures.")],
    split: Annotated[SplitName, typer.Option(help="The part of the data to predict.")] = "test",
    metric: Annotated[
        str, typer.Option(metavar="NAME@K", help="What steps, ceiling and subgroups go by: ndcg@5, hit@10, mrr.")
    ] = "ndcg@20",
    formats: Annotated[
        str, typer.Option("--format", metavar="NAME,...", help="Of the figures: png, svg, pdf, with commas between.")
    ] = "png",
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The prepared dataset.", show_default="as trained on")
    ] = None,
    exclude_seen: ExcludeSeen = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN",
            help="Other runs on the same data, repeatable. subgroups: to compare with. ceiling: its control, base runs "
            "with different seeds, one more than RUN has steps.",
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            min=1, help="latency: histories at a time; similarity: most histories.", show_default=_default_of("rows")
        ),
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="latency: measurements.", show_default=_default_of("repeats"))
    ] = None,
    cases: Annotated[int | None, typer.Option(min=1, help="case: how many.", show_default=_default_of("cases"))] = None,
    k: Annotated[
        int | None, typer.Option("-k", min=1, help="case: items of a ranking.", show_default=_default_of("k"))
    ] = None,
    trust_code: TrustCode = False,
    force: Force = False,
    devices: Devices = 1,
    nodes: Nodes = 1,
    timeout: Timeout = 600.0,
    common: Common = Common(),
) -> None:
    """Look into a trained model: a page with its numbers as csv and a figure, and the main ones here.

    What is looked at are the model's own states: a graph prior takes no part.

    {analyses}
    """
    start_processes(devices, nodes, "auto", timeout)
    chosen = list(ANALYSES) if analysis == ALL else [analysis]
    asked = {"rows": rows, "repeats": repeats, "cases": cases, "k": k}
    options = {name: _own_options(name, asked, every=analysis == ALL) for name in chosen}
    _check_fit(analysis, bool(against), exclude_seen)
    from rearec.run_folder import RunFolder

    folders = [RunFolder(path) for path in (run, *(against or []))]
    for folder in folders:
        folder.check_finished()
        check_code(folder, trust_code)
        if any(ANALYSES[name].ranks for name in chosen):
            folder.check_held_out()
    kinds = [word.strip() for word in formats.split(",")]
    _check_out(out, [*chosen, *([INDEX] if analysis == ALL else [])], kinds, force)
    data = data or folders[0].dataset_path("--data")

    from rearec.analysis.analyses import Subject, analyses_of, fill, new_page
    from rearec.data import load_dataset
    from rearec.distributed import agreed, lost_processes, processes

    with joined_processes(common.device, timeout) as where:
        with agreed(lambda: {"dataset": dataset.fingerprint}):
            dataset = load_dataset(data)
            for folder in folders:
                folder.check_fingerprint(dataset.fingerprint, data)
            models = [open_model(folder, where, trust_code) for folder in folders]
            ranks = any(ANALYSES[name].ranks for name in chosen)
            seen = seen_of_run(folders[0], dataset, exclude_seen) if ranks else None
            for folder in folders[1:]:
                if seen is not None and bool(folder.excludes_seen()) != seen.exclude:
                    note(f"{folder.path}: its best epoch was chosen the other way round")
            names = _names(folders, [model.config.method for model in models])
            why_not = _no_control(folders, [model.config.method for model in models], models[0].config.steps + 1)
            if analysis == "ceiling" and why_not:
                raise UserError(f"--against: {why_not}")
            subject = Subject(
                names[0],
                models[0],
                dataset,
                split,
                seen is not None and seen.exclude,
                against=dict(zip(names[1:], models[1:], strict=True)),
                control=[] if why_not else models[1:],
                metric=metric,
                seed=common.seed,
                progress=progress_bar,
            )
        left_out: dict[str, str] = {}
        if analysis == ALL:
            chosen, left_out = analyses_of(models[0])
            if why_not and "ceiling" in chosen:
                note(f"ceiling is without a control: {why_not}")
        pages, results = {}, {}
        with lost_processes("begin again"):
            for name in chosen:
                pages[name] = new_page(name, subject, out, kinds)
                results[name] = fill(name, subject, pages[name], **options[name])
        if analysis == ALL:
            pages[INDEX] = _index(subject, out, pages, left_out)
        with agreed():
            for page in pages.values() if processes().is_first else ():
                page.write()
    answer: dict[str, Any] = {"run": str(run), "analysis": analysis, "split": split}
    answer |= {} if seen is None else {"seen": seen.name}
    answer["files"] = [str(path) for page in pages.values() for path in page.files]
    answer |= {"result": results, "left_out": left_out} if analysis == ALL else {"result": results[analysis]}
    emit(answer, common.as_json, lambda console: _render(console, pages, results, subject, left_out))


def _own_options(analysis: str, asked: Mapping[str, int | None], *, every: bool) -> dict[str, int]:
    """The options of this analysis; UserError for one that is not its own, unless it is one of ``every``."""
    own = ANALYSES[analysis].options
    for name, value in asked.items():
        if value is not None and name not in own and not every:
            owners = _listed(name in each.options for each in ANALYSES.values())
            raise UserError(f"{'-' if len(name) == 1 else '--'}{name}: belongs to {owners}, not {analysis}")
    return {name: value for name in own if (value := asked[name]) is not None}


def _check_fit(analysis: str, has_others: bool, exclude_seen: bool | None) -> None:
    """UserError where other runs or a choice of candidates are given for an analysis that has no use for them."""
    if analysis == ALL:
        return
    asked = ANALYSES[analysis]
    if has_others and not (asked.against or asked.control):
        owners = _listed(each.against or each.control for each in ANALYSES.values())
        raise UserError(f"--against: belongs to {owners}, not {analysis}")
    if exclude_seen is not None and not asked.ranks:
        option = "--exclude-seen" if exclude_seen else "--keep-seen"
        ranking = _listed(each.ranks for each in ANALYSES.values())
        raise UserError(f"{option}: {analysis} ranks nothing; it belongs to {ranking}")


def _listed(chosen: Iterable[bool]) -> str:
    """The names of the analyses that are chosen, in words."""
    *first, last = (name for name, is_chosen in zip(ANALYSES, chosen, strict=True) if is_chosen)
    return f"{', '.join(first)} and {last}" if first else last


def _check_out(out: Path, names: Sequence[str], formats: Sequence[str], force: bool) -> None:
    """UserError where a page may not or cannot be written, before anything is computed."""
    from rearec.report.page import FORMATS

    for each in formats:
        if each not in FORMATS:
            raise UserError(f"--format: got {each!r}, expected some of {', '.join(FORMATS)}")
    check_folder(out)
    for file in (out / f"{name}.{extension}" for name in names for extension in ("md", "csv", *formats)):
        check_free(file, replace=force)


def _names(folders: Sequence[RunFolder], methods: Sequence[str]) -> list[str]:
    """A name for each model, no two alike; the method comes first, it decides the colour."""
    paths = [folder.path for folder in folders]
    for shown in ([path.resolve().name for path in paths], paths):
        names = [f"{method}: {name}" for method, name in zip(methods, shown, strict=True)]
        if len(set(names)) == len(names):
            return names
    raise UserError("--against: names a run twice")


def _no_control(folders: Sequence[RunFolder], methods: Sequence[str], states: int) -> str | None:
    """Why the runs of --against are no control for the model; None where they are, or there are none."""
    others = list(zip(folders, methods, strict=True))[1:]
    if not others:
        return None
    if len(others) != states:
        return f"got {len(others)} runs, expected {states} base runs: one for each state of RUN"
    seeds: dict[Any, Path] = {}
    for folder, method in others:
        if method != "base":
            return f"{folder.path} is of method {method}; the control is of base runs"
        seed = folder.options()["training"].get("seed")
        if seed in seeds:
            return f"{seeds[seed]} and {folder.path} have the same seed {seed}: no independent runs"
        seeds[seed] = folder.path
    return None


def _index(subject: Subject, out: Path, pages: Mapping[str, Page], left_out: Mapping[str, str]) -> Page:
    """A page that leads to the others."""
    from rearec.report.page import Page, escape

    index = Page(out, INDEX, f"All analyses: {subject.name}")
    index.text("\n".join(f"- [{ANALYSES[name].title}]({name}.md): {ANALYSES[name].help}" for name in pages))
    if left_out:
        index.text("Left out:")
        index.text("\n".join(f"- {ANALYSES[name].title}: {escape(reason)}" for name, reason in left_out.items()))
    return index


def _render(
    console: Terminal,
    pages: Mapping[str, Page],
    results: Mapping[str, Any],
    subject: Subject,
    left_out: Mapping[str, str],
) -> None:
    from rearec.cli.analysis_tables import analysis_tables
    from rearec.evaluation.metrics import heading
    from rearec.evaluation.seen import seen_words

    for name, result in results.items():
        analysis = ANALYSES[name]
        about = [heading(subject.metric)] if analysis.metric else []
        about += [seen_words(subject.seen)] if analysis.ranks else []
        console.paragraphs(f"{', '.join((analysis.title, *about))} ({subject.name})")
        for table in analysis_tables(name, pages[name], result, heading(subject.metric)):
            console.print(table)
        if not result:
            console.print("none: reasoning moves no target up")
    for name, reason in left_out.items():
        console.paragraphs(f"left out: {name}: {reason}")
    if INDEX in pages:
        console.print(f"written: {pages[INDEX].files[-1]}, which leads to the pages of all")
        return
    for page in pages.values():
        for file in page.files:
            console.print(f"written: {file}")


analyze.__doc__ = (analyze.__doc__ or "").replace(
    "{analyses}", "\n\n    ".join(f"{name}: {each.help}" for name, each in ANALYSES.items())
)
