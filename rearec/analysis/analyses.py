"""All analyses by name: what each is about, what it can be asked, and what fills its page.

Nothing heavy is imported before an analysis is made, so that a command line can name them all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rearec.data.words import SplitName
from rearec.errors import UserError

if TYPE_CHECKING:
    from rearec.data.dataset import SequenceDataset
    from rearec.evaluation import RankedRows
    from rearec.evaluation.seen import SeenName
    from rearec.reasoning import ReaRec
    from rearec.report.page import Page

__all__ = ["ANALYSES", "Analysis", "Subject", "analyses_of", "fill", "new_page"]

# Called with (rows done, rows in all).
Report = Callable[[int, int], None]


def _unseen(_: str) -> AbstractContextManager[Report | None]:
    return nullcontext()


@dataclass
class Subject:
    """What analyses look at; ranks are computed once, however many analyses ask for them.

    name: of the model on the pages; where a method's name comes first, it decides the colour.
    model: on the device to compute on. dataset: what it was trained on. split: the rows.
    exclude_seen: whether seen items are left out where targets or items are ranked.
    against: other models by name, for ``subgroups``. control: base models that differ in nothing but their seed, as
    many as the model has states, for ``ceiling``.
    metric: what is drawn and compared, such as "ndcg@20"; one that the targets' ranks tell.
    seed: of what is drawn at random.
    progress: called with what is done in words; its context gives what is to be called with (rows done, rows in all).

    Raises:
        UserError: an unknown metric or one that ranks do not tell, a control of another number or method.
    """

    name: str
    model: ReaRec
    dataset: SequenceDataset
    split: SplitName = "test"
    exclude_seen: bool = False
    against: Mapping[str, ReaRec] = field(default_factory=dict)
    control: Sequence[ReaRec] = ()
    metric: str = "ndcg@20"
    seed: int = 0
    progress: Callable[[str], AbstractContextManager[Report | None]] = _unseen
    _ranked: RankedRows | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        from rearec.analysis.metric import rank_metric

        self.metric = rank_metric(self.metric, self.dataset.num_items)
        states = self.model.config.steps + 1
        if self.control and len(self.control) != states:
            raise UserError(
                f"control: got {len(self.control)} models, expected {states} base models: one for each state of the "
                "model"
            )
        for model in self.control:
            if model.config.method != "base":
                raise UserError(f"control: got a model of method {model.config.method}, expected base models")

    @property
    def seen(self) -> SeenName:
        """Whether seen items are among those ranked, in a word."""
        from rearec.evaluation.seen import seen_name

        return seen_name(self.exclude_seen)

    def ranked(self) -> RankedRows:
        """The ranks of the rows' targets, by each step too."""
        if self._ranked is None:
            self._ranked = self.rank(self.model, per_step=True)
        return self._ranked

    def floors(self) -> dict[str, dict[str, Any]]:
        """Metrics of the floors on the rows, the subject's metric among them."""
        from rearec.analysis.metric import with_usual
        from rearec.evaluation.measured import floor_metrics
        from rearec.evaluation.metrics import parse_metrics

        metrics = parse_metrics(with_usual(self.metric))
        return floor_metrics(self.dataset, self.split, exclude_seen=self.exclude_seen, metrics=metrics)

    def rank(self, model: ReaRec, *, per_step: bool = False) -> RankedRows:
        """The ranks of the rows' targets by another model; by the states that are looked at, without a graph prior."""
        from rearec.evaluation import rank_rows

        with self.progress(f"ranking {self.split} rows") as report:
            return rank_rows(
                model,
                self.dataset,
                self.split,
                exclude_seen=self.exclude_seen,
                prior=False,
                per_step=per_step,
                progress=report,
            )


@dataclass(frozen=True)
class Analysis:
    """An analysis: title and help in words, what puts it on a page and returns its numbers (as JSON takes them).

    options: those of its own, by name, and what they are where they are not given. ranks: whether it ranks targets or
    items. metric: whether it asks for the subject's metric. against, control: whether it looks at these of the subject.
    reasoning: whether it says nothing of a model without reasoning steps.
    """

    title: str
    help: str
    show: Callable[[Subject, Page, Mapping[str, int]], Any]
    options: Mapping[str, int] = field(default_factory=dict)
    ranks: bool = True
    metric: bool = False
    against: bool = False
    control: bool = False
    reasoning: bool = True


def _steps(subject: Subject, page: Page, options: Mapping[str, int]) -> Any:
    from rearec.analysis import steps

    result = steps.of_ranks(
        subject.ranked(),
        subject.dataset,
        subject.split,
        exclude_seen=subject.exclude_seen,
        metric=subject.metric,
        seed=subject.seed,
    )
    steps.page(page, {subject.name: result})
    return result


def _ceiling(subject: Subject, page: Page, options: Mapping[str, int]) -> Any:
    import numpy as np

    from rearec.analysis import ceiling

    by_step = subject.ranked().by_step
    assert by_step is not None
    of_base = [subject.rank(model).final for model in subject.control]
    control = np.stack(of_base, axis=1) if of_base else None
    result = ceiling.ceiling(by_step, control, metric=subject.metric, seed=subject.seed)
    ceiling.page(page, {subject.name: result}, seen=subject.seen, floors=subject.floors())
    return asdict(result)


def _subgroups(subject: Subject, page: Page, options: Mapping[str, int]) -> Any:
    from rearec.analysis import subgroups

    models = {subject.name: subject.model, **subject.against}
    with subject.progress(f"ranking {subject.split} rows"):
        result = subgroups.subgroups(
            models, subject.dataset, subject.split, exclude_seen=subject.exclude_seen, metric=subject.metric
        )
    subgroups.page(page, result)
    return result


def _latency(subject: Subject, page: Page, options: Mapping[str, int]) -> Any:
    from rearec.analysis import latency
    from rearec.distributed import from_first

    with subject.progress("measuring"):
        # the other processes, if any, wait: they would be measured too
        result = from_first(
            lambda: latency.latency(
                subject.model,
                subject.dataset,
                subject.split,
                rows=options["rows"],
                repeats=options["repeats"],
                seed=subject.seed,
            )
        )
    latency.page(page, {subject.name: result}, device=latency.device_words(subject.model.device))
    return result


def _similarity(subject: Subject, page: Page, options: Mapping[str, int]) -> Any:
    from rearec.analysis import similarity

    with subject.progress("encoding rows"):
        result = similarity.similarity(
            subject.model, subject.dataset, subject.split, max_rows=options["rows"], seed=subject.seed
        )
    similarity.page(page, {subject.name: result})
    return result.tolist()


def _ranks(subject: Subject, page: Page, options: Mapping[str, int]) -> Any:
    from rearec.analysis import ranks

    by_step = subject.ranked().by_step
    assert by_step is not None
    result = ranks.distribution(by_step)
    ranks.page(page, {subject.name: result}, seen=subject.seen)
    return result


def _case(subject: Subject, page: Page, options: Mapping[str, int]) -> Any:
    from rearec.analysis import case

    result = case.cases(
        subject.model,
        subject.dataset,
        subject.split,
        exclude_seen=subject.exclude_seen,
        count=options["cases"],
        k=options["k"],
        ranked=subject.ranked(),
    )
    case.page(page, result, seen=subject.seen)
    return [asdict(each) for each in result]


ANALYSES: Mapping[str, Analysis] = {
    "steps": Analysis(
        "Metrics by reasoning step",
        "how good each reasoning step is taken alone, with paired intervals.",
        _steps,
        metric=True,
    ),
    "ceiling": Analysis(
        "Ceiling: the best step of every row",
        "what could be won if the best step were known for every row, beside the same for base models.",
        _ceiling,
        metric=True,
        control=True,
    ),
    "subgroups": Analysis(
        "Subgroups of users and items",
        "by length of the history and popularity of the target.",
        _subgroups,
        metric=True,
        against=True,
        reasoning=False,
    ),
    "latency": Analysis(
        "Latency by number of reasoning steps",
        "time by number of steps.",
        _latency,
        {"rows": 256, "repeats": 30},
        ranks=False,
    ),
    "similarity": Analysis(
        "Similarity between reasoning steps",
        "cosine between the states of the steps.",
        _similarity,
        {"rows": 10_000},
        ranks=False,
    ),
    "ranks": Analysis(
        "Rank of the target by reasoning step", "in how many rows each step moves the target up or down.", _ranks
    ),
    "case": Analysis(
        "Cases in which reasoning helps most",
        "histories on which reasoning helps most.",
        _case,
        {"cases": 3, "k": 5},
    ),
}


def analyses_of(model: ReaRec) -> tuple[list[str], dict[str, str]]:
    """The analyses that say something of this model, and those that do not, with the reason."""
    if model.config.steps:
        return list(ANALYSES), {}
    reason = f"the model ({model.config.method}) takes no reasoning steps"
    chosen = [name for name, each in ANALYSES.items() if not each.reasoning]
    return chosen, {name: reason for name, each in ANALYSES.items() if each.reasoning}


def new_page(analysis: str, subject: Subject, folder: str | Path, formats: Sequence[str] = ("png",)) -> Page:
    """The page of this analysis, NAME.md in the folder, still without its parts.

    formats: of its figures, as `rearec.report.page.Page`.
    """
    from rearec.report.page import Page

    return Page(Path(folder), analysis, f"{ANALYSES[analysis].title}: {subject.name}", formats=formats)


def fill(analysis: str, subject: Subject, page: Page, **options: int) -> Any:
    """Make an analysis and put it on a page, which is not written yet; returns its numbers as JSON takes them.

    options: those of its own (``ANALYSES[analysis].options``); the others are as they are there.

    Raises:
        UserError: the model does not reason and the analysis is about nothing else, or the split has no rows.
        ValueError: an unknown analysis, an option that is not its own.
    """
    if analysis not in ANALYSES:
        raise ValueError(f"analysis: got {analysis!r}, expected one of {', '.join(ANALYSES)}")
    asked = ANALYSES[analysis]
    for name in options:
        if name not in asked.options:
            own = ", ".join(asked.options) or "none"
            raise ValueError(f"options: {analysis} has no option {name!r}; its own are: {own}")
    return asked.show(subject, page, {**asked.options, **options})
