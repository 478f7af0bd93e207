"""The model card: what a folder with a model says of itself to people, and in its head to the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from rearec.errors import visible
from rearec.fields import OWN, Setting, is_code, is_own, settings
from rearec.models.config import ReaRecConfig
from rearec.models.prior import GraphPrior
from rearec.report.floors import FLOORS, floors_of
from rearec.report.headings import heading
from rearec.report.page import escape

__all__ = ["model_card"]

TAGS = ("recommendation", "sequential-recommendation")
PAPER = "https://arxiv.org/abs/2503.22675"
SEEN = {"kept": "seen items among the candidates", "excluded": "seen items left out"}


def model_card(
    config: ReaRecConfig,
    *,
    data: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    result: Mapping[str, Any] | None = None,
    prior: GraphPrior | None = None,
    license: str | None = None,
) -> str:
    """The README.md of a model: Markdown under the head that the Hub reads.

    data: what a run records of its dataset, and ``split``, in words, where it is known. training: the settings of its
        training. result: that of its training, as result.json holds it. Of a model without a run there are none.
    prior: what the item graph adds to its scores.
    license: an identifier that the Hub knows, such as "mit".

    >>> print(model_card(ReaRecConfig(num_items=50, method="erl"), license="mit"))
    ---
    library_name: rearec
    license: mit
    ...
    """
    name = None if data is None else Path(data["path"]).name if data.get("path") else "data in memory"
    head = _head(config, name, result, license)
    parts = [f"---\n{head}\n---", *_what(config, name, prior)]
    if data is not None:
        parts += ["## Data", _table(["", ""], _data_rows(data))]
    if result is not None:
        parts += _metrics(result)
    parts += ["## Settings", _settings(config, training or {})]
    parts += ["## Use", *_use(config, with_catalog=data is not None)]
    return "\n\n".join(parts) + "\n"


def _head(config: ReaRecConfig, name: str | None, result: Mapping[str, Any] | None, license: str | None) -> str:
    """The metadata as yaml."""
    split, measured = _measured(result)
    kinds = {"method": config.method, "backbone": config.backbone}
    found = [
        EvalResult(
            task_type="recommendation",
            task_name="Next item, full catalogue",
            dataset_type="sequences",
            dataset_name=name or "unnamed",
            dataset_split=split,
            metric_type=metric,
            metric_name=heading(metric),
            metric_value=measured[metric],
        )
        for metric in _metric_names(measured)
    ]
    data = ModelCardData(
        library_name="rearec",
        license=license,
        tags=[*TAGS, *(f"{what}-{OWN if is_own(word) else word}" for what, word in kinds.items())],
        model_name=f"ReaRec {config.method}" if found else None,
        eval_results=found or None,
    )
    return data.to_yaml().strip()


def _what(config: ReaRecConfig, name: str | None, prior: GraphPrior | None) -> list[str]:
    on = "" if name is None else f" on {escape(name)}"
    steps = f"{config.steps} reasoning {'step' if config.steps == 1 else 'steps'}" if config.steps else "no reasoning"
    parts = [
        f"# ReaRec: {escape(config.method)}{on}",
        f"A sequential recommender with latent reasoning ([ReaRec]({PAPER})), trained with the library `rearec`: it "
        f"ranks {config.num_items:,} items after a history of at most {config.max_len}. "
        f"Encoder {escape(config.backbone)}, method {escape(config.method)}, {steps}.",
    ]
    if prior is not None:
        numbers = prior.settings
        parts.append(
            f"A graph prior is added to its scores (`prior.safetensors`): items that often followed the last "
            f"{numbers.last} of the history in the training data get a bonus of {prior.temperature:g} · "
            f"{numbers.weight:g} · log(1 + s / {numbers.scale:g}), where s sums the graph's weights, "
            f"{numbers.decay:g} times as much for each place back. `model.prior = None` takes it off."
        )
    return parts


def _data_rows(data: Mapping[str, Any]) -> list[list[str]]:
    rows = [[what, f"{data[what]:,}"] for what in ("users", "items", "interactions") if data.get(what) is not None]
    counts = data.get("rows") or {}
    if counts:
        rows.append(["predictions", ", ".join(f"{split} {count:,}" for split, count in counts.items())])
    if data.get("split"):
        rows.append(["split", escape(str(data["split"]))])
    if data.get("fingerprint"):
        rows.append(["fingerprint", f"`{data['fingerprint']}`"])
    return rows


def _measured(result: Mapping[str, Any] | None) -> tuple[str, Mapping[str, Any]]:
    """The test metrics, or those of the validation where there are no test rows; none of a refit."""
    if result is None or result["valid"] is None:
        return "test", {}
    return ("test", result["test"]) if result.get("test") else ("validation", result["valid"])


def _metrics(result: Mapping[str, Any]) -> list[str]:
    split, measured = _measured(result)
    if not measured:
        return [
            "## Metrics",
            f"None: trained on every interaction, {result['epochs']} epochs long; nothing was left to measure it by.",
        ]
    names = _metric_names(measured)
    rows = [["this model", *_values(measured, names)]]
    if "without_prior" in measured:
        rows.append(["without its graph prior", *_values(measured["without_prior"], names)])
    rows += [[FLOORS[floor].words, *_values(values, names)] for floor, values in floors_of(measured).items()]
    chosen = f"Best of {result['epochs']} epochs by NDCG@20 on validation: epoch {result['best_epoch']}."
    return [
        f"## {split.capitalize()} metrics",
        f"{measured['rows']:,} predictions, every item of the catalogue ranked, {SEEN[result['seen']]}; ± one standard "
        f"error over predictions. {chosen}",
        _table(["", *map(heading, names)], rows),
    ]


def _metric_names(measured: Mapping[str, Any]) -> list[str]:
    return [name for name in measured if f"{name}_se" in measured and measured[name] is not None]


def _values(measured: Mapping[str, Any], names: list[str]) -> list[str]:
    return [f"{measured[name]:.4f} ± {measured[f'{name}_se']:.4f}" for name in names]


def _settings(config: ReaRecConfig, training: Mapping[str, Any]) -> str:
    """The settings that its method and its encoder read."""
    known: dict[str, tuple[Setting | None, Any]] = {
        **{name: (said, getattr(config, name)) for name, said in settings(ReaRecConfig).items()},
        **{name: (None, value) for name, value in training.items()},
    }
    rows = [
        [f"`{name}`", escape(value) if isinstance(value, str) else str(value)]
        for name, (said, value) in known.items()
        if value is not None and (said is None or said.not_read_by(config.backbone, config.method) is None)
    ]
    return _table(["setting", "value"], rows)


def _use(config: ReaRecConfig, *, with_catalog: bool) -> list[str]:
    trust, note = "", []
    if is_code(config.backbone):
        trust = ", trust_code=True"
        note = [
            f"The encoder is code that is not in this folder, `{config.backbone}`: with `trust_code=True` it is run."
        ]
    elif config.has_own_backbone:
        trust = ", backbone=encoder"
        note = ["The encoder is code that is not in this folder; `encoder` is one that is built alike."]
    model = f'model = rearec.ReaRec.from_pretrained("FOLDER or owner/name"{trust})  # the bare network'
    lines = ["import rearec", ""]
    if with_catalog:
        lines += [
            f'recommender = rearec.Recommender("FOLDER or owner/name"{trust})',
            'recommender.recommend([["an id of the data", "another one"]], k=10)',
            "",
        ]
        if not config.has_own_backbone:
            lines.append('fitted = rearec.load("FOLDER")  # with evaluate() and all the rest')
    code = "\n".join([*lines, model])
    return [
        *note,
        "`config.json` holds its settings, `model.safetensors` its weights"
        + (", `catalog.json` the items' ids, `result.json` all metrics." if with_catalog else "."),
        f"```python\n{code}\n```",
    ]


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(visible(cell) for cell in line)} |" for line in lines)
