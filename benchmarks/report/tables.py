"""Markdown tables of comparisons: times, rows per second, latencies, memory, and what the machine can do."""

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
    return {f"{who}, {c['name']}": f"did not run: {why}" for who, why in c.get("errors", {}).items()}


def rivals(c: Record) -> dict[str, float]:
    """Medians of those that do the same work as ours: a bare product or a copy of the memory is a yardstick."""
    return {who: ms for who, ms in c["median_ms"].items() if not who.startswith("ours") and who not in YARDSTICKS}


def summary(comparisons: Iterable[Record]) -> str:
    """In how many comparisons with others ours is the fastest."""
    raced = [c for c in comparisons if rivals(c) and "ours" in c["median_ms"]]
    won = sum(c["median_ms"]["ours"] <= min(rivals(c).values()) for c in raced)
    return f"In {won} of {len(raced)} comparisons with others ours, in its default precision, is the fastest."


def slower(comparisons: Iterable[Record]) -> str:
    """The comparisons in which another is faster than ours, the worst first; empty without any."""
    rows = []
    for c in comparisons:
        others, ours = rivals(c), c["median_ms"].get("ours")
        if not others or ours is None or min(others.values()) >= ours:
            continue
        best = min(others, key=lambda who: others[who])
        rows.append((others[best] / ours, [c["name"], milliseconds(ours), best, milliseconds(others[best])]))
    rows.sort(key=lambda pair: pair[0])
    head = ["", "ours", "fastest", "its time", "beside ours"]
    return table(head, ([*cells, ratio(share)] for share, cells in rows)) if rows else ""


def limits(comparisons: Iterable[Record]) -> str:
    """What ours reaches of what the machine can do, or costs beside less work; empty where nothing was measured so."""
    rows = [
        [c["name"], what.format(of=t.get("of", "ours"), against=t["against"]), form(t["got"])]
        for c in comparisons
        for t in c["targets"]
        if t["kind"] in LIMITS
        for what, form in [LIMITS[t["kind"]]]
    ]
    return table(["work", "what", "measured"], rows) if rows else ""


def ratio(value: float) -> str:
    return f"{value:.2f}×" if value < 10 else f"{value:.1f}×" if value < 100 else f"{value:.0f}×"


def milliseconds(value: float) -> str:
    return f"{1e3 * value:.3g} µs" if value < 0.1 else f"{value:.3g} ms" if value < 1e3 else f"{value / 1e3:.3g} s"


def megabytes(value: float) -> str:
    return f"{value:.3g} MB" if value < 1e3 else f"{value / 1024:.3g} GB"


# Contenders that do less than the work itself.
YARDSTICKS = ("product",)
# kind: what is measured, and how it is written
LIMITS: dict[str, tuple[str, Callable[[float], str]]] = {
    "extra": ("extra time of {of} over {against}", "{:.3g} %".format),
    "bandwidth": ("bandwidth of {of} / that of {against}", "{:.0%}".format),
    "products": ("time of {of} / time of {against}", "{:.3g}".format),
}
