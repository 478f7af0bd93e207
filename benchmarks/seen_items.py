"""Quality of finished runs with seen items kept and excluded, beside the floors: one JSON object on stdout.

    python benchmarks/seen_items.py DATA base=RUN,RUN,... prl=RUN,RUN,... [--threads 1]

Runs of one method differ in their seed alone. Gains are over the first method and over the Markov chain, in per cent
with 95 % paired bootstrap intervals over rows, seeds pooled.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rearec.data import SequenceDataset, load_dataset
from rearec.evaluation import rank_rows, seen_items
from rearec.evaluation.bootstrap import paired_interval
from rearec.evaluation.floors import baseline_ranks
from rearec.evaluation.measures import evaluate
from rearec.evaluation.metrics import METRICS, rank_metrics, row_metrics
from rearec.evaluation.seen import seen_name
from rearec.experiments.results import Gain
from rearec.experiments.runs import training_minutes
from rearec.reasoning import ReaRec
from rearec.run_folder import RunFolder

LISTS = ("coverage@20", "novelty@20", "arp@20")
Ranks = Mapping[str, Sequence[NDArray[np.float64]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("methods", nargs="+", metavar="METHOD=RUN,...")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dataset = load_dataset(arguments.data)
    methods = {}
    for words in arguments.methods:
        method, _, runs = words.partition("=")
        methods[method] = [RunFolder(run) for run in runs.split(",")]
    report: dict[str, Any] = {"rule": str(seen_items(dataset))}
    report["runs"] = {method: [_run(run, dataset) for run in runs] for method, runs in methods.items()}
    for exclude in (False, True):
        report[seen_name(exclude)] = _protocol(dataset, methods, exclude)
    print(json.dumps(report, indent=1))


def _run(run: RunFolder, dataset: SequenceDataset) -> dict[str, Any]:
    run.check_finished()
    run.check_fingerprint(dataset.fingerprint, run.path)
    result, options = run.result(), run.options()
    return {
        "seed": options["training"]["seed"],
        "selected_with_seen_items": result["seen"],
        "best_epoch": result["best_epoch"],
        "epochs": result["epochs"],
        "valid_ndcg@20": result["valid"]["ndcg@20"],
        "minutes_busy_machine": round(training_minutes(run), 1),
    }


def _protocol(dataset: SequenceDataset, methods: Mapping[str, list[RunFolder]], exclude: bool) -> dict[str, Any]:
    """Test metrics of every run and floor, their means over seeds, and the gains."""
    ranks: dict[str, list[NDArray[np.float64]]] = {}
    found: dict[str, Any] = {}
    for method, runs in methods.items():
        models = [ReaRec.from_pretrained(run.path).eval() for run in runs]
        ranks[method] = [rank_rows(model, dataset, exclude_seen=exclude).final for model in models]
        each = [rank_metrics(final) for final in ranks[method]]
        lists = [evaluate(model, dataset, exclude_seen=exclude, metrics=LISTS, floors=False) for model in models]
        means = {metric: float(np.mean([one[metric] for one in each])) for metric in METRICS}
        means |= {metric: float(np.mean([one[metric] for one in lists])) for metric in LISTS}
        found[method] = {"mean": means, "runs": each}
    for floor, final in baseline_ranks(dataset, "test", exclude_seen=exclude).items():
        ranks[floor] = [final]
        found[floor] = rank_metrics(final)
    first, *others = methods
    pairs = [(method, first) for method in others] + [(method, "markov") for method in methods]
    return found | {"gains_percent": {f"{a} over {b}": _gains(ranks, a, b) for a, b in pairs}}


def _gains(ranks: Ranks, method: str, over: str) -> dict[str, str]:
    gains = {}
    for metric in METRICS:
        a, b = (np.stack([row_metrics(final)[metric] for final in ranks[name]]) for name in (method, over))
        gains[metric] = str(Gain.of(paired_interval(a, b), float(b.mean())))
    return gains


if __name__ == "__main__":
    main()
