"""The command line of `benchmarks/peers.py`."""

from __future__ import annotations

import argparse
from pathlib import Path

from contenders.libraries.task import Sizes


def parse(arguments: list[str] | None, description: str | None = None) -> argparse.Namespace:
    """Ends with a line that names the option where one is wrong."""
    parser = argparse.ArgumentParser(
        prog="peers.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="DIR", required=True, help="a prepared dataset")
    parser.add_argument("--venvs", type=Path, metavar="VENVS", required=True, help="folder of virtual environments")
    parser.add_argument("--out", type=Path, help="the json (default: benchmarks/results/DATE-peers-KIND.json)")
    parser.add_argument("--install", action="store_true", help="make the environments, measure nothing")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="contenders whose names begin so")
    parser.add_argument("--users", type=int, help="so many users drawn at random (default: all)")
    parser.add_argument("--rows", type=int, default=Sizes.rows, help="of a batch, about (default: %(default)s)")
    parser.add_argument("--timeout", type=float, help="seconds of one process (default: 1800, a day for quality)")
    speed = parser.add_argument_group("speed")
    speed.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    speed.add_argument("--seconds", type=float, default=8, help="CPU-seconds of training (default: %(default)s)")
    better = parser.add_argument_group("quality")
    better.add_argument("--quality", action="store_true", help="measure quality in the place of speed")
    better.add_argument("--epochs", type=int, default=200, help="at most, for everybody (default: %(default)s)")
    better.add_argument(
        "--patience", type=int, default=10, help="epochs without a better validation NDCG@20 (default: %(default)s)"
    )
    better.add_argument(
        "--cpu-seconds", type=float, help="no further epoch once a training has taken so many (default: no limit)"
    )
    better.add_argument(
        "--ours", type=_named_runs, default={}, metavar="NAME=RUN,...", help="runs of rearec that take part as they are"
    )
    better.add_argument(
        "--work", type=Path, metavar="DIR", help="keeps what is trained; the same command goes on there"
    )
    better.add_argument("--jobs", type=int, default=1, help="processes at once (default: %(default)s)")
    options = parser.parse_args(arguments)
    for name in ("rounds", "epochs", "patience", "cpu_seconds", "jobs", "rows", "seconds", "timeout", "users"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            parser.error(f"--{name.replace('_', '-')}: got {value}, expected more than 0")
    if options.users and options.ours:
        parser.error("--ours: runs are of all users, and cannot be compared on those of --users")
    return options


def words(options: argparse.Namespace) -> list[str]:
    """The command line as one would type it, with folders by their names alone."""
    said = ["--data", options.data.name, "--venvs", options.venvs.name]
    for name in ("users", "only"):
        if value := getattr(options, name):
            said += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    if options.rows != Sizes.rows:
        said += ["--rows", str(options.rows)]
    if options.quality:
        said += ["--quality", "--epochs", str(options.epochs), "--patience", str(options.patience)]
        if options.cpu_seconds is not None:
            said += ["--cpu-seconds", f"{options.cpu_seconds:g}"]
        if options.ours:
            said += ["--ours", ",".join(f"{name}={run.name}" for name, run in options.ours.items())]
        return said
    return [*said, "--rounds", str(options.rounds), "--seconds", f"{options.seconds:g}"]


def _named_runs(text: str) -> dict[str, Path]:
    """NAME=RUN,... as a mapping."""
    pairs = [part.partition("=") for part in text.split(",")]
    for name, _, run in pairs:
        if not name or not run:
            raise argparse.ArgumentTypeError(f"got {text!r}, expected NAME=RUN, with commas between several")
    return {name: Path(run) for name, _, run in pairs}
