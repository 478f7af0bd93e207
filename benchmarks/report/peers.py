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
    """Test metrics of the best epoch by validation, seen items out of the lists and in them; gains over the references.

    Below the table, who was trained how, and where a training ended before its time.
    """
    names = ("ndcg@10", "recall@10", "ndcg@20", "recall@20")
    short = [name.replace("ndcg", "N").replace("recall", "R") for name in names]
    head = ["", "epochs (best)", "CPU-s of training", "valid N@20", *short, "N@20, seen kept"]
    rows = []
    for name, found in record["quality"].items():
        of = _contender(record, name)
        trained = of["trained"] if of else {}
        metrics = [_metric(found["seen_removed"], metric) for metric in names]
        gains = [
            record.get("over", {}).get(name, {}).get(reference, {}).get("ndcg@20", "–")
            for reference in record["references"]
        ]
        rows.append([name, *_training(trained), *metrics, _metric(found["seen_kept"], "ndcg@20"), *gains])
    parts = [table([*head, *(f"N@20 over {name}" for name in record["references"])], rows)]
    parts.append(
        "Leave-one-out, full catalogue, the same rows for all; without the items of the history unless said otherwise. "
        "Validation is that of the best epoch, without the graph. "
        "±: standard error over rows; gains in per cent with 95 % paired bootstrap intervals over rows."
    )
    parts += [f"- {name}: {one['documented']}" for name, one in record["recipes"].items()]
    for name, (one, *_) in record["contenders"].items():
        trained = one.get("trained", {})
        if trained.get("ended_by") not in (None, "patience"):
            parts.append(f"- {name}: ended by {trained['ended_by']} after {trained['epochs']} epochs, not by patience")
        elif not trained and one.get("curve"):
            last = one["curve"][-1]
            parts.append(
                f"- {name}: not finished; after {last['epoch']} epochs and {last['cpu_s']:,.0f} CPU-s valid NDCG@20 "
                f"{last['valid_ndcg@20']:.4f}"
            )
    return "\n\n".join(parts)


def _contender(record: Record, name: str) -> Record | None:
    """What a line of the table was trained as; None for a floor. Variants have their contender's name and more."""
    owners = [owner for owner in record["contenders"] if name == owner or name.startswith(f"{owner} + ")]
    return record["contenders"][max(owners, key=len)][0] if owners else None


def _training(trained: Record) -> Iterator[str]:
    if not trained:
        yield from ("–", "–", "–")
        return
    yield f"{trained['epochs']} ({trained['best_epoch']})"
    yield "–" if trained["cpu_s"] is None else f"{trained['cpu_s']:,.0f}"
    kept = ", seen kept" if trained.get("valid_seen") == "kept" else ""
    yield f"{trained['valid_ndcg@20']:.4f}".lstrip("0") + kept


def _metric(found: Record, name: str) -> str:
    values = [found[name], *([found[f"{name}_se"]] if found.get(f"{name}_se") is not None else [])]
    return " ± ".join(f"{value:.4f}".lstrip("0") for value in values)
