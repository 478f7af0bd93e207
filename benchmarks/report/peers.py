"""Markdown of rearec beside other libraries: from a json that `benchmarks/peers.py` wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median

from contenders.libraries.entries import OURS

from report.tables import Record, ratio, table


def section(record: Record) -> str:
    """What was measured with what, the table, and who failed."""
    data, machine = record["data"], record["machine"]
    before, after = record["load"]
    parts = [
        f"{data['name']}: {data['users']:,} users, {data['items']:,} items, {data['train_targets']:,} rows an epoch, "
        f"{record['sizes']['batch_rows']:,} a batch. "
        f"{machine['processor']}, {'AMX' if machine['amx'] else 'no AMX'}, one thread; {record['date']}, "
        f"commit {record['commit'] or 'unknown'}; load {before:.1f} before and {after:.1f} after; `{record['command']}`"
    ]
    parts.append(speed(record) if record["kind"] == "speed" else quality(record))
    parts += [f"- {name}: failed: {why}" for name, why in record["failed"].items()]
    # of contenders that share an environment, once
    found = dict.fromkeys(", ".join(" ".join(pair) for pair in one.items()) for one in record["versions"].values())
    parts.append("Versions: " + "; ".join(filter(None, found)) + ".")
    return "\n\n".join(parts)


def speed(record: Record) -> str:
    """Medians of the rounds. In brackets, how many times as much rearec base does, or as long the other takes."""
    ours = _Speed(record["contenders"].get(OURS, []))
    rows = [_row(name, _Speed(rounds), ours, record) for name, rounds in record["contenders"].items()]
    head = ["", "targets / CPU-s", "CPU-s an epoch", "base is ahead by, CPU (wall)", "peak RSS"]
    return table([*head, "users / CPU-s", "base is ahead by", "one user, CPU", "base is ahead by"], rows)


class _Speed:
    """Medians over rounds; None where no round has it."""

    def __init__(self, rounds: list[Record]) -> None:
        def middle(part: str, figure: Callable[[Record], float]) -> float | None:
            found = [figure(one[part]) for one in rounds if part in one]
            return median(found) if found else None

        self.targets = middle("training", lambda r: r["targets"] / r["cpu_s"])
        self.targets_wall = middle("training", lambda r: r["targets"] / r["wall_s"])
        self.memory = middle("training", lambda r: r["peak_memory"])
        self.users = middle("answers", lambda r: r["users"] / r["cpu_s"])
        self.one_user = middle("one_user", lambda r: r["cpu_ms"])


def _row(name: str, it: _Speed, ours: _Speed, record: Record) -> Iterator[str]:
    def count(value: float | None) -> str:
        return "–" if value is None else f"{value:,.0f}"

    def ahead(above: float | None, below: float | None) -> str:
        return "–" if above is None or below is None else ratio(above / below)

    yield name
    yield count(it.targets)
    yield "–" if it.targets is None else f"{record['data']['train_targets'] / it.targets:,.1f}"
    yield f"{ahead(ours.targets, it.targets)} ({ahead(ours.targets_wall, it.targets_wall)})"
    yield "–" if it.memory is None else f"{it.memory / 2**20:,.0f} MiB"
    yield count(it.users)
    yield ahead(ours.users, it.users)
    yield "–" if it.one_user is None else f"{it.one_user:.2f} ms"
    yield ahead(it.one_user, ours.one_user)


def quality(record: Record) -> str:
    """NDCG and recall of the test targets, with the history's items in the lists and out of them; ±: standard error."""
    names = ("ndcg@10", "recall@10", "ndcg@20", "recall@20")
    short = [name.replace("ndcg", "N").replace("recall", "R") for name in names]
    head = ["", "epochs", "CPU-s of training", *(f"{name}, seen kept" for name in short)]
    rows = []
    for name, (one, *_) in record["contenders"].items():
        trained, found = one["trained"], one["quality"]
        epochs = f"{trained['epochs']} (best {trained['best_epoch']})" if "best_epoch" in trained else trained["epochs"]
        kept, removed = ([_metric(found[how], metric) for metric in names] for how in ("seen_kept", "seen_removed"))
        rows.append([name, str(epochs), f"{trained['cpu_s']:,.0f}", *kept, *removed])
    return table([*head, *(f"{name}, seen removed" for name in short)], rows)


def _metric(found: Record, name: str) -> str:
    values = [found[name], *([found[f"{name}_se"]] if f"{name}_se" in found else [])]
    return " ± ".join(f"{value:.4f}".lstrip("0") for value in values)
