"""What a comparison of runs has found: as lines, as a data frame, as a page."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from rearec.analysis.subgroups import GROUPINGS
from rearec.evaluation.metrics import heading
from rearec.evaluation.seen import SeenItems, seen_words
from rearec.experiments.frames import frame
from rearec.files import check_folder, check_free
from rearec.report.digits import number
from rearec.report.floors import FLOORS
from rearec.report.intervals import draw_intervals
from rearec.report.notebook import html_table
from rearec.report.page import Page, escape
from rearec.report.plots import panels

__all__ = ["CHANCE", "Comparison", "sentence", "short_lines", "shown_line"]

CHANCE = "no difference beyond chance"
NAME = "comparison"


@dataclass(frozen=True, repr=False)
class Comparison:
    """Runs beside a baseline on the same rows (see `rearec.experiments.compare.compare`).

    Attributes:
        names: the runs. baseline: one of them, or a floor.
        split, rows, users: what was ranked, how many rows these are and of how many users.
        seen: how seen items are treated, and why.
        resamples: of each bootstrap interval; users are drawn, each with all of its rows.
        dataset: its fingerprint and statistics.
        main: the metric of the groups.
        table: a line for each metric and run or floor: ``run``, ``metric``, ``value``, ``value_se``, ``rows``;
            ``difference`` to the baseline with the ends ``low`` and ``high`` of its 95 % interval, the shares
            ``rows_higher``, ``rows_same`` and ``rows_lower`` and a ``verdict`` in words, all of them None for the
            baseline itself, and all but the difference for metrics of all rows together such as coverage.
        groups: the same of ``main`` for groups of rows, with ``grouping`` and ``group``.
        settings: a line for each setting in which the runs differ.
        folders: the RUN folder by name, None for a model without one.
        asked: ``metrics`` and ``exclude_seen`` where they were asked for.
    """

    names: tuple[str, ...]
    baseline: str
    split: str
    seen: SeenItems
    rows: int
    users: int
    resamples: int
    dataset: dict[str, Any]
    main: str
    table: list[dict[str, Any]]
    groups: list[dict[str, Any]]
    settings: list[dict[str, Any]]
    folders: dict[str, str | None]
    asked: dict[str, Any]

    @property
    def metrics(self) -> list[str]:
        """Their names."""
        return list(dict.fromkeys(line["metric"] for line in self.table))

    @property
    def title(self) -> str:
        """What the table is of."""
        rows = f"{self.rows:,} {self.split} rows of {self.users:,} users, full catalogue, {seen_words(self.seen.name)}"
        return f"{rows}; baseline: {self.baseline}"

    @property
    def sentences(self) -> list[str]:
        """The verdict on the main metric, a sentence for each run."""
        return [sentence(line, self.baseline) for line in self.table if self._is_told(line)]

    def _is_told(self, line: Mapping[str, Any]) -> bool:
        return line["metric"] == self.main and line["run"] in self.names and line["difference"] is not None

    def to_dict(self) -> dict[str, Any]:
        """All of it as json can hold it."""
        return {
            "runs": self.folders,
            "baseline": self.baseline,
            "split": self.split,
            "seen": self.seen.name,
            "rows": self.rows,
            "users": self.users,
            "resamples": self.resamples,
            "fingerprint": self.dataset["fingerprint"],
            "table": self.table,
            "groups": self.groups,
            "settings": self.settings,
        }

    def to_frame(self, library: Literal["polars", "pandas"] = "polars") -> Any:
        """The table as a data frame of polars or pandas; UserError where that is not installed."""
        return frame(self.table, library)

    def save(self, out: str | Path, *, force: bool = False) -> list[Path]:
        """Write comparison.md with its csv files and figures into a folder; returns their paths.

        Raises:
            UserError: the folder cannot be written, or holds a comparison and ``force`` is not given.
        """
        folder = Path(out)
        check_folder(folder)
        check_free(folder / f"{NAME}.md", replace=force)
        page = self._page(folder)
        page.write()
        return page.files

    def __repr__(self) -> str:
        return "\n".join([f"Comparison: {self.title}", *self.sentences])

    def _repr_html_(self) -> str:
        shown = [shown_line(line) for line in self.table if line["metric"] == self.main]
        return html_table(f"{heading(self.main)}, {self.title}", list(shown[0]), [list(row.values()) for row in shown])

    def _page(self, folder: Path) -> Page:

        page = Page(folder, NAME, f"Comparison: {', '.join(self.names)}")
        page.text("\n".join(f"- {escape(sentence)}" for sentence in self.sentences) or "One run, and the floors.")
        page.text(
            f"{self.title[0].upper()}{escape(self.title[1:])}. The interval is a 95 % paired bootstrap interval of the "
            f"difference to the baseline ({self.resamples:,} resamples of the users, each with all of its rows); where "
            f"it holds 0 there is {CHANCE}. Each run is one training: the intervals are about other users, not about "
            "other seeds, and each stands for itself, whatever number of differences is looked at. Higher, same and "
            f"lower are shares of rows. {', '.join(FLOORS)} are floors: rules that no model is needed for."
        )
        for metric in self.metrics:
            lines = [line for line in self.table if line["metric"] == metric]
            page.text(f"## {heading(metric)}")
            page.table([shown_line(line) for line in lines])
        page.data(self.table, NAME, shared={"seen": self.seen.name, "split": self.split, "baseline": self.baseline})
        drawings = self._drawings()
        if drawings:
            caption = "Differences to the baseline with 95 % intervals; what crosses the line at 0 may be chance."
            page.figure(panels(drawings, title=self._title), NAME, caption)
        self._add_groups(page)
        self._add_origin(page, folder)
        return page

    @property
    def _title(self) -> str:
        return f"Ahead of {self.baseline}, or behind? With 95 % intervals"

    def _drawings(self) -> list[Any]:
        """A panel for each metric that has intervals."""

        drawings = []
        for metric in self.metrics:
            lines = [line for line in self.table if line["metric"] == metric and line["low"] is not None]
            if lines:
                intervals = {line["run"]: (line["difference"], line["low"], line["high"]) for line in lines}
                label = f"{heading(metric)}, difference to {self.baseline}"
                drawings.append(partial(draw_intervals, intervals={"": intervals}, xlabel=label))
        return drawings

    def _add_groups(self, page: Page) -> None:
        if not self.groups:
            return

        page.text(f"## {heading(self.main)} by group")
        page.text("Rows in groups of about equal size.")
        drawings = []
        for key, words in GROUPINGS.items():
            lines = [line for line in self.groups if line["grouping"] == key]
            if not lines:
                continue
            page.table([{"group": line["group"], **shown_line(line)} for line in lines], caption=f"By {words}:")
            intervals: dict[str, dict[str, tuple[float, float, float]]] = {}
            for line in lines:
                if line["low"] is not None and line["run"] in self.names:
                    place = intervals.setdefault(line["group"], {})
                    place[line["run"]] = (line["difference"], line["low"], line["high"])
            if intervals:
                label = f"{heading(self.main)}, difference to {self.baseline}"
                drawings.append(partial(draw_intervals, intervals=intervals, xlabel=label, ylabel=words))
        shared = {"seen": self.seen.name, "split": self.split, "baseline": self.baseline}
        page.data(self.groups, f"{NAME}-groups", shared=shared)
        if drawings:
            caption = f"{heading(self.main)} by group: differences to the baseline with 95 % intervals."
            page.figure(panels(drawings, columns=2, title=self._title), f"{NAME}-groups", caption)

    def _add_origin(self, page: Page, folder: Path) -> None:
        """How the page was made, and in what the runs differ."""

        page.text("## How this was made")
        page.code(self._command(folder))
        lines = [
            f"data: {', '.join(f'{name} {value}' for name, value in self.dataset.items())}",
            str(self.seen),
            f"rearec {version('rearec')}, torch {version('torch')}, Python {platform.python_version()}",
        ]
        page.text("\n".join(f"- {escape(line)}" for line in lines))
        if self.settings:
            rows = [{name: _setting(value) for name, value in row.items()} for row in self.settings]
            page.table(rows, caption="Settings in which the runs differ:")
        elif len(self.names) > 1:
            page.text("The runs differ in no setting.")

    def _command(self, folder: Path) -> str:
        """The command that makes the page, with the names of its folders alone."""
        runs = [Path(path).resolve().name if path else name for name, path in self.folders.items()]
        words = ["rearec", "compare", *runs, "--split", self.split, "--out", folder.resolve().name]
        if self.baseline != self.names[0]:
            words += ["--against", self.baseline]
        for metric in self.asked["metrics"] or ():
            words += ["--metric", metric]
        if self.asked["exclude_seen"] is not None:
            words.append("--exclude-seen" if self.asked["exclude_seen"] else "--keep-seen")
        for key, option in (("users_by_length", "--users-by"), ("items_by_popularity", "--items-by")):
            if not any(line["grouping"] == key for line in self.groups):
                words += [option, "none"]
        return shlex.join(words)


def shown_line(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the table for reading."""
    told = line["low"] is not None
    error = line["value_se"]
    return {
        "run": line["run"],
        "value": number(line["value"]) + ("" if error is None else f" ± {number(error)}"),
        "difference": None if line["difference"] is None else number(line["difference"], sign=True),
        "95 % interval": f"{number(line['low'], sign=True)} to {number(line['high'], sign=True)}" if told else None,
        "higher / same / lower": (
            " / ".join(f"{100 * line[f'rows_{word}']:.1f} %" for word in ("higher", "same", "lower")) if told else None
        ),
        "in words": line["verdict"],
    }


def _setting(value: Any) -> str | None:
    return None if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def sentence(line: Mapping[str, Any], baseline: str) -> str:
    """A run's difference to the baseline, and whether it may be chance."""
    where = f"{line['run']} against {baseline}: {heading(line['metric'])} {number(line['difference'], sign=True)}"
    if line["low"] is None:
        return where
    interval = f"95 % interval {number(line['low'], sign=True)} to {number(line['high'], sign=True)}"
    return f"{where} ({interval}): {line['verdict']}"


def short_lines(table: Sequence[Mapping[str, Any]], metric: str, width: int = 14) -> Sequence[str]:
    """A metric's lines of a table for a terminal, 60 columns wide where names are short; longer ones are cut."""

    def fitting(name: str) -> str:
        return name if len(name) <= width else f"{name[: width - 1]}…"

    lines = [f"{heading(metric):<{width}}  value   difference  95 % interval"]
    for line in table:
        if line["metric"] != metric:
            continue
        text = f"{fitting(line['run']):<{width}} {number(line['value']):>7}"
        if line["difference"] is not None:
            text += f" {number(line['difference'], sign=True):>9}"
        if line["low"] is not None:
            mark = " " if line["verdict"] == CHANCE else "*"
            text += f" {mark} {number(line['low'], sign=True)} to {number(line['high'], sign=True)}"
        lines.append(text)
    return lines
