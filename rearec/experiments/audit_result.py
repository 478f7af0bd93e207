"""What an audit has found: as lines, as a page with figures."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rearec.analysis.subgroups import GROUPINGS
from rearec.evaluation.metrics import heading
from rearec.evaluation.seen import SeenItems, seen_words
from rearec.experiments.audit_rows import Share, later_words
from rearec.experiments.comparison_result import CHANCE, sentence, shown_line
from rearec.files import check_folder, check_free
from rearec.report.digits import number
from rearec.report.floors import FLOORS
from rearec.report.intervals import draw_intervals
from rearec.report.page import Page, escape
from rearec.report.plots import draw_bars, panels

__all__ = ["EXPLAINED", "RULE", "Audit"]

NAME = "audit"
# The floor that looks at the last item alone, and the grouping by whether it can know the target.
RULE, EXPLAINED = "markov", "last_item_rule"
WORDS = {EXPLAINED: "target after the row's last item, in training", **GROUPINGS}


@dataclass(frozen=True, repr=False)
class Audit:
    """Floors and runs on the same rows, and what these ask for (see `rearec.experiments.audit.audit`).

    Attributes:
        names: the runs, none or more. baseline: the floor that is best on the validation rows.
        floors_on_valid: the main metric of each floor on the validation rows; empty where there are none.
        floor_settings: what floors chose on the validation rows.
        split, rows, users: what was ranked, how many rows these are and of how many users.
        seen: how seen items are treated, and why.
        resamples: of each bootstrap interval; users are drawn, each with all of its rows.
        dataset: its fingerprint and statistics.
        main: the metric of the groups.
        table: a line for each metric and run or floor, as of `rearec.experiments.comparison_result.Comparison`.
        groups: the same of ``main`` for groups of rows, with ``grouping``, ``group`` and ``against``: the baseline,
            and for the grouping ``last_item_rule`` the Markov chain.
        shares: kinds of rows by name: ``followed_last``, ``top_followers``, ``in_history``, ``same_as_last``,
            ``unseen_target``, ``empty_history``, and of the users ``twin_sequences``.
        priors: which of the runs are measured with a graph prior.
        data: the folder of the dataset, None for one in memory.
        folders: the RUN folder by name, None for a model without one.
        exclude_seen: what was asked for.
    """

    names: tuple[str, ...]
    baseline: str
    floors_on_valid: dict[str, float]
    floor_settings: dict[str, dict[str, Any]]
    split: str
    seen: SeenItems
    rows: int
    users: int
    resamples: int
    dataset: dict[str, Any]
    main: str
    table: list[dict[str, Any]]
    groups: list[dict[str, Any]]
    shares: dict[str, Share]
    priors: tuple[str, ...]
    data: str | None
    folders: dict[str, str | None]
    exclude_seen: bool | None

    @property
    def title(self) -> str:
        """What the table is of."""
        rows = f"{self.rows:,} {self.split} rows of {self.users:,} users, full catalogue, {seen_words(self.seen.name)}"
        return f"{rows}; against {self.baseline}, the floor that {self._chosen}"

    @property
    def _chosen(self) -> str:
        if not self.floors_on_valid:
            return "is taken where there are no validation rows to choose by"
        rows = "these very" if self.split == "valid" else "the validation"
        return f"is best on {rows} rows ({heading(self.main)} {number(self.floors_on_valid[self.baseline])})"

    @property
    def later(self) -> list[str]:
        """How much of the training part is later than the test rows, in sentences."""
        return later_words(self.dataset)

    @property
    def sentences(self) -> list[str]:
        """The verdict: on each run, on what the last item alone explains and who is ahead there."""
        found = [sentence(line, self.baseline) for line in self._of_runs(self.table)]
        explained, shown = self.shares["followed_last"], self.shares["top_followers"]
        found.append(
            f"A rule that looks at the last item alone explains {explained.percent} of the {self.split} rows: their "
            f"target followed it in training ({shown.percent}: and is among the first 20 that the rule lists)"
        )
        for line in self._of_runs(self.groups):
            if line["grouping"] == EXPLAINED:
                where = "On these rows" if line["group"] != "never did" else "On the others"
                found.append(f"{where}, {sentence(line, RULE)}")
        return found

    def _of_runs(self, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [line for line in lines if line["metric"] == self.main and line["run"] in self.names]

    def to_dict(self) -> dict[str, Any]:
        """All of it as json can hold it."""
        return {
            "data": self.data,
            "runs": self.folders,
            "priors": list(self.priors),
            "baseline": self.baseline,
            "floors_on_valid": self.floors_on_valid,
            "floor_settings": self.floor_settings,
            "split": self.split,
            "seen": self.seen.name,
            "rows": self.rows,
            "users": self.users,
            "resamples": self.resamples,
            "fingerprint": self.dataset["fingerprint"],
            "shares": {name: {"count": each.count, "of": each.of, "share": each.share} for name, each in self._shares},
            "later_training": self.later,
            "table": self.table,
            "groups": self.groups,
        }

    @property
    def _shares(self) -> list[tuple[str, Share]]:
        return list(self.shares.items())

    def save(self, out: str | Path, *, force: bool = False) -> list[Path]:
        """Write audit.md with its csv files and figures into a folder; returns their paths.

        Raises:
            UserError: the folder cannot be written, or holds an audit and ``force`` is not given.
        """
        folder = Path(out)
        check_folder(folder)
        check_free(folder / f"{NAME}.md", replace=force)
        page = self._page(folder)
        page.write()
        return page.files

    def __repr__(self) -> str:
        return "\n".join([f"Audit: {self.title}", *self.sentences])

    def _page(self, folder: Path) -> Page:
        page = Page(folder, NAME, "Audit: what this benchmark asks for, and who answers it")
        page.text("\n".join(f"- {escape(each)}" for each in self.sentences))
        self._add_contenders(page)
        self._add_shares(page)
        self._add_groups(page)
        page.text("## How this was made")
        page.code(self._command(folder))
        lines = [
            f"data: {', '.join(f'{name} {value}' for name, value in self.dataset.items())}",
            str(self.seen),
            *([f"with the graph prior of the run: {', '.join(self.priors)}"] if self.priors else []),
            *(f"{floor}, chosen on validation rows: {chosen}" for floor, chosen in self.floor_settings.items()),
            f"rearec {version('rearec')}, torch {version('torch')}, Python {platform.python_version()}",
        ]
        page.text("\n".join(f"- {escape(line)}" for line in lines))
        return page

    @property
    def _shared(self) -> dict[str, Any]:
        return {"seen": self.seen.name, "split": self.split}

    def _add_contenders(self, page: Page) -> None:
        """All metrics of all contenders, and a figure of the main one."""
        floors = "; ".join(f"{name}: {floor.words}" for name, floor in FLOORS.items())
        page.text("## Who is ahead")
        page.text(
            f"{escape(self.title)}. The floors need no training ({escape(floors)}). The interval is a 95 % paired "
            f"bootstrap interval of the difference to {self.baseline} ({self.resamples:,} resamples of the users, each "
            f"with all of its rows); where it holds 0 there is {CHANCE}. Each run is one training: the intervals are "
            "about other users, not about other seeds. **A model that is not ahead of the best floor has not earned "
            "its training.**"
        )
        for metric in dict.fromkeys(line["metric"] for line in self.table):
            page.text(f"### {heading(metric)}")
            page.table([shown_line(line) for line in self.table if line["metric"] == metric])
        page.data(self.table, NAME, shared={**self._shared, "baseline": self.baseline})
        lines = [line for line in self.table if line["metric"] == self.main]
        label = heading(self.main)
        bars = partial(
            draw_bars,
            groups=[line["run"] for line in lines],
            series={label: [line["value"] for line in lines]},
            errors={label: [line["value_se"] or 0.0 for line in lines]},
            ylabel=label,
        )
        intervals = {
            line["run"]: (line["difference"], line["low"], line["high"]) for line in lines if line["low"] is not None
        }
        ahead = partial(draw_intervals, intervals={"": intervals}, xlabel=f"{label}, difference to {self.baseline}")
        caption = (
            f"Above {label} with a standard error to both sides, below the differences to {self.baseline} with 95 % "
            "intervals; what crosses the line at 0 may be chance."
        )
        page.figure(panels([bars, ahead], title=f"Ahead of {self.baseline}, the best floor?"), NAME, caption)

    def _add_shares(self, page: Page) -> None:
        page.text(f"## What the {self.split} rows ask for")
        page.text(
            f"A rule that looks at the last item alone explains {self.shares['followed_last'].percent} of the "
            f"{self.split} rows: the larger this share, the less is asked for beyond one item. Repeats are answered by "
            "remembering the history, unseen targets by nothing that learns from ids, twins by looking up the other "
            "user. **On such rows no figure shows that a model understands sequences.**"
        )
        rows = [{"what": each.words, "count": each.count, "share": each.percent} for each in self.shares.values()]
        page.table(rows)
        shares = [
            {"what": name, "count": each.count, "of": each.of, "share": each.share} for name, each in self._shares
        ]
        page.data(shares, f"{NAME}-rows", shared=self._shared)
        page.text("### Training interactions that are later than the test")
        page.text("\n".join(f"- {escape(line)}" for line in self.later))
        page.text(
            "A model that is trained on them knows what became popular only afterwards: **the larger these shares, the "
            "less the figures say of next month.** `--split timestamp` of `rearec prepare` avoids it."
        )

    def _add_groups(self, page: Page) -> None:
        page.text(f"## {heading(self.main)} by group")
        explained = [line for line in self.groups if line["grouping"] == EXPLAINED]
        page.text(
            f"Rows whose target followed their last item in training, and the others, each against {RULE}, the rule "
            "that looks at the last item alone. The first are picked by what the rule knows, and on the others it has "
            "popularity and nothing else: a model may well lose the first and win the others. **A model that is ahead "
            "on neither has learnt nothing beyond the last item.**"
        )
        page.table(
            [{"rows whose target": f"{line['group']} ({line['rows']:,})", **shown_line(line)} for line in explained]
        )
        page.text("Then groups of about equal size; ± is the standard error over the rows of a group.")
        drawings = []
        for key, words in WORDS.items():
            lines = [line for line in self.groups if line["grouping"] == key]
            cells = {(line["group"], line["run"]): line for line in lines}
            groups, contenders = (list(dict.fromkeys(line[part] for line in lines)) for part in ("group", "run"))
            if key != EXPLAINED:
                page.table([self._cells(cells, group, contenders) for group in groups], caption=f"By {words}:")
            drawings.append(
                partial(
                    draw_bars,
                    groups=[f"{group} ({cells[group, contenders[0]]['rows']:,}\u00a0rows)" for group in groups],
                    series={name: [cells[group, name]["value"] for group in groups] for name in contenders},
                    errors={name: [cells[group, name]["value_se"] or 0.0 for group in groups] for name in contenders},
                    xlabel=words,
                    ylabel=heading(self.main),
                )
            )
        page.data(self.groups, f"{NAME}-groups", shared=self._shared)
        caption = f"{heading(self.main)} by group, with a standard error to both sides."
        page.figure(panels(drawings, title="On which rows?"), f"{NAME}-groups", caption)

    @staticmethod
    def _cells(cells: Mapping[tuple[str, str], Mapping[str, Any]], group: str, contenders: list[str]) -> dict[str, Any]:
        """A line of a table: a group's metric by contender."""
        line: dict[str, Any] = {"group": group, "rows": cells[group, contenders[0]]["rows"]}
        for name in contenders:
            line |= {name: cells[group, name]["value"], f"{name}_se": cells[group, name]["value_se"]}
        return line

    def _command(self, folder: Path) -> str:
        """The command that makes the page, with the names of its folders alone."""
        runs = [Path(path).resolve().name if path else name for name, path in self.folders.items()]
        data = "DIR" if self.data is None else Path(self.data).resolve().name
        words = ["rearec", "audit", data, *runs, "--split", self.split, "--out", folder.resolve().name]
        if self.exclude_seen is not None:
            words.append("--exclude-seen" if self.exclude_seen else "--keep-seen")
        return shlex.join(words)
