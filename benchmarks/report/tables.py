"""Markdown tables of comparisons: times, rows per second, latencies, memory, targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

Record = dict[str, Any]
FEW_RUNS = 100  # below, the 99th percentile is about the longest


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def contenders(comparisons: Iterable[Record], key: str) -> list[str]:
    """Of whom `key` says something; ours first."""
    found = dict.fromkeys(who for c in comparisons for who in c[key])
    return sorted(found, key=lambda who: not who.startswith("ours"))


def alike(comparisons: Iterable[Record], key: str) -> list[list[Record]]:
    """Those that have the same contenders beside ours together, in the order in which such a set first occurs."""
    found: dict[frozenset[str], list[Record]] = {}
    for c in comparisons:
        found.setdefault(frozenset(who for who in c[key] if not who.startswith("ours")), []).append(c)
    return list(found.values())


def comparisons(found: Sequence[Record]) -> Iterator[str]:
    """Times and memory; a table for those that have the same contenders."""
    timed = [c for c in found if c["median_ms"]]
    yield from map(times, alike(timed, "median_ms"))
    measured = [c for c in found if c["peak_memory_mb"]]
    if measured:
        yield "Peak memory of one call:"
        yield from map(memory, alike(measured, "peak_memory_mb"))
    missing = absent(found)
    if missing:
        yield "Not there:\n\n" + "\n".join(missing)


def times(comparisons: Sequence[Record]) -> str:
    """Medians, and how many times as long as ours; the shortest of a row is bold."""
    return _compared(comparisons, "median_ms", milliseconds)


def memory(comparisons: Sequence[Record]) -> str:
    """The same of the peaks."""
    return _compared(comparisons, "peak_memory_mb", megabytes)


def _compared(comparisons: Sequence[Record], key: str, form: Callable[[float], str]) -> str:
    names = contenders(comparisons, key)

    def cell(values: dict[str, float], who: str) -> str:
        if who not in values:
            return "–"
        text = form(values[who])
        if who != "ours" and values.get("ours"):
            text += f" ({ratio(values[who] / values['ours'])})"
        return f"**{text}**" if values[who] == min(values.values()) else text

    return table(["", *names], ([c["name"], *(cell(c[key], who) for who in names)] for c in comparisons))


def throughput(comparisons: Sequence[Record]) -> str:
    """Rows per second, and the seconds of an epoch that follow where its rows are known."""
    chosen = [c for c in comparisons if c.get("rows") and c["median_ms"]]
    names = contenders(chosen, "median_ms")

    def cell(c: Record, who: str) -> str:
        if who not in c["median_ms"]:
            return "–"
        rate = 1e3 * c["rows"] / c["median_ms"][who]
        return f"{rate:,.0f}" + (f" ({c['epoch_rows'] / rate:,.0f} s)" if "epoch_rows" in c else "")

    return table(["", *names], ([c["name"], *(cell(c, who) for who in names)] for c in chosen))


def latencies(comparisons: Sequence[Record]) -> str:
    """p50 / p99."""
    names = contenders(comparisons, "median_ms")

    def cell(c: Record, who: str) -> str:
        if who not in c["median_ms"]:
            return "–"
        few = f" ({c['runs'][who]} runs)" if c["runs"][who] < FEW_RUNS else ""
        return f"{milliseconds(c['median_ms'][who])} / {milliseconds(c['p99_ms'][who])}{few}"

    return table(["p50 / p99", *names], ([c["name"], *(cell(c, who) for who in names)] for c in comparisons))


def absent(comparisons: Iterable[Record]) -> list[str]:
    """Contenders that could not take part, each with its reason once."""
    away = [pair for c in comparisons for pair in (c.get("absent", {}) | _failures(c)).items()]
    return list(dict.fromkeys(f"- {who}: {why}" for who, why in away))


def _failures(c: Record) -> dict[str, str]:
    """Those that failed or disagreed with ours, and where."""
    return {f"{who} FAILED, {c['name']}": why for who, why in c.get("errors", {}).items()}


def targets(comparisons: Iterable[Record]) -> str:
    """What is promised beside what was measured, missed targets among them; empty without any."""
    rows = [_target(c, target) for c in comparisons for target in c["targets"]]
    return table(["work", "what", "must", "aim", "measured", ""], rows) if rows else ""


def _target(c: Record, target: Record) -> list[str]:
    of, against, kind = target.get("of", "ours"), target["against"], target["kind"]
    what, form, most = KINDS[kind]
    bounds = [("at most " if most else "") + form(target[key]) for key in ("must", "aim")]
    verdict = "**MISSED**" if target["verdict"] == "MISSED" else target["verdict"]
    return [c["name"], what.format(of=of, against=against), *bounds, form(target["got"]), verdict]


def summary(comparisons: Iterable[Record]) -> str:
    """How many targets were met, and by how much those that were not were missed."""
    verdicts = [target["verdict"] for c in comparisons for target in c["targets"]]
    counts = [f"{verdicts.count(verdict)} {verdict}" for verdict in ("aim met", "must met", "MISSED")]
    return f"{len(verdicts)} targets: " + ", ".join(counts) + "." if verdicts else "No targets."


def ratio(value: float) -> str:
    return f"{value:.2f}×" if value < 10 else f"{value:.1f}×" if value < 100 else f"{value:.0f}×"


def milliseconds(value: float) -> str:
    return f"{1e3 * value:.3g} µs" if value < 0.1 else f"{value:.3g} ms" if value < 1e3 else f"{value / 1e3:.3g} s"


def megabytes(value: float) -> str:
    return f"{value:.3g} MB" if value < 1e3 else f"{value / 1024:.3g} GB"


# kind of target: what it is about, how its figures are written, whether they are to be small
KINDS: dict[str, tuple[str, Callable[[float], str], bool]] = {
    "time": ("time of {against} / {of}", ratio, False),
    "memory": ("memory of {against} / {of}", ratio, False),
    "extra": ("extra time of {of} over {against}", "{:.3g} %".format, True),
    "bandwidth": ("bandwidth of {of} / that of {against}", "{:.0%}".format, False),
    "products": ("time of {of} / time of {against}", "{:.3g}".format, True),
}
