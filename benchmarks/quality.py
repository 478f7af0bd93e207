"""Quality of finished runs without and with the item graph, beside the floors: one JSON object on stdout.

    python benchmarks/quality.py DATA base=RUN,RUN,... prl=RUN,RUN,... [--seen excluded,kept] [--threads 1]

Runs of one method differ in their seed alone. For each protocol a graph prior is fitted anew on the validation rows
(`rearec.training.fit_prior`), whatever the runs have. Test metrics are means over seeds; gains are in per cent with
95 % paired bootstrap intervals over rows, seeds pooled: with the graph over without it, over the best floor (by
NDCG@20 on the validation rows) and over the first method treated alike.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure.gains import gains
from numpy.typing import NDArray

from rearec.data import SequenceDataset, load_dataset
from rearec.evaluation import rank_rows, seen_items
from rearec.evaluation.floors import baseline_ranks, floor_settings
from rearec.evaluation.metrics import METRICS, rank_metrics
from rearec.evaluation.seen import seen_name
from rearec.experiments.runs import training_minutes
from rearec.reasoning import ReaRec
from rearec.run_folder import RunFolder
from rearec.training import fit_prior

CHOSEN_BY = "ndcg@20"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("methods", nargs="+", metavar="METHOD=RUN,...")
    parser.add_argument("--seen", default="excluded,kept")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dataset = load_dataset(arguments.data)
    methods = {}
    for words in arguments.methods:
        method, _, runs = words.partition("=")
        methods[method] = [RunFolder(run) for run in runs.split(",")]
    report: dict[str, Any] = {"rule": str(seen_items(dataset)), "test_rows": len(dataset.rows("test"))}
    report["runs"] = {method: [_run(run, dataset) for run in runs] for method, runs in methods.items()}
    for seen in arguments.seen.split(","):
        report[seen] = _protocol(dataset, methods, seen == seen_name(exclude=True))
    print(json.dumps(report, indent=1))


def _run(run: RunFolder, dataset: SequenceDataset) -> dict[str, Any]:
    run.check_finished()
    run.check_fingerprint(dataset.fingerprint, run.path)
    result, options = run.result(), run.options()
    model, training = options["model"], options["training"]
    return {
        "seed": training["seed"],
        "settings": {name: model[name] for name in ("dim", "steps", "dropout", "temperature")} | {"lr": training["lr"]},
        "selected_with_seen_items": result["seen"],
        "best_epoch": result["best_epoch"],
        "epochs": result["epochs"],
        "minutes_busy_machine": round(training_minutes(run), 1),
    }


def _protocol(dataset: SequenceDataset, methods: Mapping[str, list[RunFolder]], exclude: bool) -> dict[str, Any]:
    """Test metrics of every method, without and with the graph, and of the floors; and the gains."""
    ranks: dict[str, list[NDArray[np.float64]]] = {}
    found: dict[str, Any] = {"priors": {}}
    for method, runs in methods.items():
        for run in runs:
            model = ReaRec.from_pretrained(run.path, prior=False)
            model.prior = fit_prior(model, dataset, exclude_seen=exclude)
            ranked = rank_rows(model, dataset, exclude_seen=exclude)
            without = ranked.final if ranked.without_prior is None else ranked.without_prior
            ranks.setdefault(method, []).append(without)
            ranks.setdefault(f"{method} + graph", []).append(ranked.final)
            said = None if model.prior is None else vars(model.prior.settings) | model.prior.fit
            found["priors"].setdefault(method, []).append(said)
    for name, finals in ranks.items():
        each = [rank_metrics(final) for final in finals]
        found[name] = {metric: float(np.mean([one[metric] for one in each])) for metric in METRICS}
        found[name]["runs_ndcg@20"] = [one[CHOSEN_BY] for one in each]
    floors = baseline_ranks(dataset, "test", exclude_seen=exclude)
    of_valid = baseline_ranks(dataset, "valid", exclude_seen=exclude)
    best = max(of_valid, key=lambda floor: rank_metrics(of_valid[floor])[CHOSEN_BY])
    for floor, final in floors.items():
        ranks[floor] = [final]
        found[floor] = rank_metrics(final)
    found |= {"best_floor": best, "floor_settings": floor_settings(dataset, exclude_seen=exclude)}
    first, *others = methods
    pairs = [(f"{method} + graph", method) for method in methods]
    pairs += [(f"{method}{graph}", best) for method in methods for graph in ("", " + graph")]
    pairs += [(f"{method}{graph}", f"{first}{graph}") for method in others for graph in ("", " + graph")]
    return found | {"gains_percent": {f"{a} over {b}": gains(ranks, a, b) for a, b in pairs}}


if __name__ == "__main__":
    main()
