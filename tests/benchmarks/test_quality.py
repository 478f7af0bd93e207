"""benchmarks/quality.py on a run of its own: every contender without and with the graph, and what is gained."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rearec.data.synthetic import Planted, generate
from rearec.evaluation import evaluate
from rearec.reasoning import ReaRec
from rearec.training import TrainingOptions, fit_prior, fitting_config, train

ROOT = Path(__file__).parents[2]


def test_the_report_says_what_evaluate_says(tmp_path: Path) -> None:
    dataset = generate(0, planted=Planted(users=120, themes=3, items_per_theme=6), out=tmp_path / "data")
    for method in ("base", "prl"):
        config = fitting_config(dataset, method=method, steps=1, dim=8, ffn=8, layers=1, max_len=20)
        train(tmp_path / "data", tmp_path / method, config, TrainingOptions(epochs=1, batch_rows=128))
    words = [f"{method}={tmp_path / method}" for method in ("base", "prl")]
    command = [sys.executable, ROOT / "benchmarks" / "quality.py", tmp_path / "data", *words, "--seen", "excluded"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)["excluded"]
    model = ReaRec.from_pretrained(tmp_path / "prl", prior=False)
    assert found["prl"]["ndcg@20"] == pytest.approx(evaluate(model, dataset, exclude_seen=True)["ndcg@20"], rel=1e-6)
    model.prior = fit_prior(model, dataset, exclude_seen=True)
    assert model.prior is not None
    with_graph = evaluate(model, dataset, exclude_seen=True)
    assert found["prl + graph"]["ndcg@20"] == pytest.approx(with_graph["ndcg@20"], rel=1e-6)
    assert found["best_floor"] in ("popularity", "markov", "itemknn", "rules")
    gains = found["gains_percent"]
    assert {"prl + graph over prl", "prl over base", "prl + graph over base + graph"} <= gains.keys()
    gain = 100 * (found["prl + graph"]["ndcg@20"] / found["prl"]["ndcg@20"] - 1)
    assert gains["prl + graph over prl"]["ndcg@20"].startswith(f"{gain:+.1f}")
