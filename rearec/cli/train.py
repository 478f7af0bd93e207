"""``rearec train``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rearec.cli.common import (
    Debug,
    Device,
    ExcludeSeen,
    Force,
    Json,
    Seed,
    Threads,
    command,
    compute_device,
    emit,
    metric_table,
    note,
    set_threads,
)
from rearec.cli.training_choices import (
    Backbone,
    Form,
    Method,
    NoisedPrefix,
    Pairing,
    Precision,
    Schedule,
    TrainingTask,
)
from rearec.cli.training_progress import TrainingProgress
from rearec.errors import UserError

if TYPE_CHECKING:
    from rearec.cli.terminal import Terminal
    from rearec.run_folder import RunFolder

__all__ = ["register"]


# Options of the command, by the field of the library they set.
MODEL_FIELDS = {
    name: name
    for name in (
        *("backbone", "method", "steps", "dim", "ffn", "layers", "heads", "max_len", "dropout", "input_dropout"),
        *("alpha", "kl_weight", "kl_form", "step_weights", "pl_weight", "cl_weight"),
        *("noise", "warmup", "noised_prefix", "training_task", "mask_share"),
        *("adaptor_dropout", "experts", "transductive", "adaptor_layers", "text_encoder", "text_tokens"),
    )
} | {"tau": "temperature"}
TRAINING_FIELDS = {
    name: name
    for name in (
        *("epochs", "patience", "pairing", "lr", "encoder_lr", "weight_decay", "clip", "schedule", "lr_warmup"),
        *("precision", "exclude_seen", "seed"),
    )
} | {"batch_size": "batch_rows"}

MODEL, TEXTS, OBJECTIVE, OPTIMISER = "Model", "Backbones that read texts", "Objective", "Training"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(train)


@command
def train(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(metavar="DIR", help="A dataset made by 'rearec prepare'.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder for the model, metrics and checkpoints.")],
    backbone: Annotated[
        Backbone,
        typer.Option(
            help="unisrec and morec read the items' texts: run 'rearec embed' before.",
            rich_help_panel=MODEL,
        ),
    ] = Backbone.sasrec,
    method: Annotated[
        Method,
        typer.Option(
            help="base: no reasoning. erl, prl: the paper's two methods. naive, rpe: steps without their objectives.",
            rich_help_panel=MODEL,
        ),
    ] = Method.prl,
    steps: Annotated[int, typer.Option(min=0, help="Reasoning steps.", rich_help_panel=MODEL)] = 2,
    dim: Annotated[int, typer.Option(min=1, help="Model width.", rich_help_panel=MODEL)] = 256,
    ffn: Annotated[int, typer.Option(min=1, help="Inner width of the FFN.", rich_help_panel=MODEL)] = 300,
    layers: Annotated[int, typer.Option(min=1, rich_help_panel=MODEL)] = 2,
    heads: Annotated[int, typer.Option(min=1, rich_help_panel=MODEL)] = 2,
    max_len: Annotated[int, typer.Option(min=1, help="Items of a history it sees.", rich_help_panel=MODEL)] = 50,
    dropout: Annotated[float, typer.Option(rich_help_panel=MODEL)] = 0.5,
    input_dropout: Annotated[float, typer.Option(rich_help_panel=MODEL)] = 0.2,
    adaptor_dropout: Annotated[
        float, typer.Option(help="Dropout of what makes item vectors of features.", rich_help_panel=TEXTS)
    ] = 0.2,
    experts: Annotated[int, typer.Option(min=1, help="unisrec: whitenings to mix.", rich_help_panel=TEXTS)] = 8,
    transductive: Annotated[
        bool, typer.Option("--transductive", help="unisrec: with embeddings of item ids too.", rich_help_panel=TEXTS)
    ] = False,
    adaptor_layers: Annotated[
        int, typer.Option(min=0, help="morec: layers after the first one.", rich_help_panel=TEXTS)
    ] = 1,
    text_encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_PATH",
            help="morec: train this transformers model too, on the items' titles; no features are read.",
            show_default=False,
            rich_help_panel=TEXTS,
        ),
    ] = None,
    text_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of a title that it sees.", rich_help_panel=TEXTS)
    ] = 32,
    encoder_lr: Annotated[
        float | None,
        typer.Option(help="Its learning rate.", show_default="a twentieth of --lr", rich_help_panel=TEXTS),
    ] = None,
    tau: Annotated[float, typer.Option(help="Temperature of the softmax.", rich_help_panel=OBJECTIVE)] = 0.07,
    alpha: Annotated[float, typer.Option(help="prl: annealing factor.", rich_help_panel=OBJECTIVE)] = 5.0,
    kl_weight: Annotated[float, typer.Option(help="erl: diversity weight.", rich_help_panel=OBJECTIVE)] = 0.05,
    kl_form: Annotated[Form, typer.Option(help="erl: form of the KL term.", rich_help_panel=OBJECTIVE)] = Form.official,
    step_weights: Annotated[
        Form, typer.Option(help="prl: weights of the steps' losses.", rich_help_panel=OBJECTIVE)
    ] = Form.official,
    pl_weight: Annotated[
        float, typer.Option(help="prl: weight of the earlier steps' loss.", rich_help_panel=OBJECTIVE)
    ] = 1.0,
    cl_weight: Annotated[
        float, typer.Option(help="prl: weight of the contrastive term.", rich_help_panel=OBJECTIVE)
    ] = 1.0,
    noise: Annotated[float, typer.Option(help="prl: noise of the contrastive term.", rich_help_panel=OBJECTIVE)] = 0.01,
    warmup: Annotated[
        int, typer.Option(min=0, help="prl: epochs before the contrastive term.", rich_help_panel=OBJECTIVE)
    ] = 2,
    noised_prefix: Annotated[
        NoisedPrefix,
        typer.Option(help="prl: whether noised steps attend to an encoding of their own.", rich_help_panel=OBJECTIVE),
    ] = NoisedPrefix.shared,
    training_task: Annotated[
        TrainingTask,
        typer.Option(
            help="bert4rec: trained on the item after each part of a history, or on masked items (cloze).",
            rich_help_panel=OBJECTIVE,
        ),
    ] = TrainingTask.next_item,
    mask_share: Annotated[
        float, typer.Option(help="cloze: share of the items that are masked.", rich_help_panel=OBJECTIVE)
    ] = 0.2,
    epochs: Annotated[int, typer.Option(min=1, help="At most so many.", rich_help_panel=OPTIMISER)] = 200,
    patience: Annotated[
        int,
        typer.Option(
            min=1, help="Epochs without a better validation NDCG@20 before it stops.", rich_help_panel=OPTIMISER
        ),
    ] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per batch.", rich_help_panel=OPTIMISER)] = 2048,
    pairing: Annotated[
        Pairing,
        typer.Option(
            help="shared: a history is encoded once for all its rows. overlapping: also where it is longer than "
            "--max-len, from which such rows see half or more.",
            rich_help_panel=OPTIMISER,
        ),
    ] = Pairing.shared,
    lr: Annotated[float, typer.Option(help="Learning rate of Adam.", rich_help_panel=OPTIMISER)] = 1e-3,
    weight_decay: Annotated[float, typer.Option(rich_help_panel=OPTIMISER)] = 0.0,
    clip: Annotated[float, typer.Option(help="Largest gradient norm; 0: no limit.", rich_help_panel=OPTIMISER)] = 0.0,
    schedule: Annotated[
        Schedule, typer.Option(help="Of the learning rate, after its warm-up.", rich_help_panel=OPTIMISER)
    ] = Schedule.constant,
    lr_warmup: Annotated[
        int, typer.Option(min=0, help="Steps of linear rise of the learning rate.", rich_help_panel=OPTIMISER)
    ] = 0,
    precision: Annotated[
        Precision,
        typer.Option(
            help="Of the losses; bf16 on a GPU: autocast too. bf16x3: near float32, on CPUs with AMX.",
            rich_help_panel=OPTIMISER,
        ),
    ] = Precision.fp32,
    exclude_seen: ExcludeSeen = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a training that was interrupted.")] = False,
    force: Force = False,
    as_json: Json = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = 0,
    debug: Debug = False,
) -> None:
    """Train a model; the best epoch by validation NDCG@20 is kept and tested.

    --resume takes the options from the interrupted run; options that contradict them are an error.
    """
    if resume and force:
        raise UserError("--resume continues a run, --force replaces it: give one of them")
    given = {
        name
        for name in (*MODEL_FIELDS, *TRAINING_FIELDS)
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }
    chosen = {name: getattr(value, "value", value) for name, value in context.params.items()}
    if method is Method.base and "steps" in given:
        note("--steps is ignored: base does not reason")
    set_threads(threads)
    from rearec.data import load_dataset
    from rearec.run_folder import RunFolder

    folder = RunFolder(out)
    model = {field: chosen[name] for name, field in MODEL_FIELDS.items()}
    training = {field: chosen[name] for name, field in TRAINING_FIELDS.items()}
    if resume and folder.options_file.is_file():
        before = _options_of(folder)
        _adopt(model, before["model"], MODEL_FIELDS, given - ({"steps"} if method is Method.base else set()))
        _adopt(training, before["training"], TRAINING_FIELDS, given)
    dataset = load_dataset(data)

    from rearec.evaluation import seen_items
    from rearec.training import TrainingOptions, fitting_config
    from rearec.training import train as run_training

    seen = seen_items(dataset, exclude_seen, of_run=training["exclude_seen"])
    training["exclude_seen"] = seen.exclude
    try:
        config = fitting_config(dataset, **model)
        options = TrainingOptions(**training)
    except ValueError as error:
        raise UserError(_as_option(str(error))) from None
    finished = resume and folder.finished
    with TrainingProgress(config.method, str(seen)) as progress:
        try:
            result = run_training(
                data,
                out,
                config,
                options,
                device=compute_device(device),
                resume=resume,
                force=force,
                on_epoch=progress.on_epoch,
                on_batch=progress.on_batch,
            )
        except KeyboardInterrupt:
            note(f"continue with: {shlex.join(['rearec', 'train', str(data), '--out', str(out), '--resume'])}")
            raise
    if finished:
        note(f"{out}: this training has finished already")
    _emit(out, {"method": config.method, "steps": config.steps}, result, as_json)


def _options_of(folder: RunFolder) -> dict[str, Any]:
    """The options of the interrupted run; UserError where they are none."""
    from rearec.models.config import ReaRecConfig
    from rearec.training import TrainingOptions

    options = folder.options()
    options["training"]["exclude_seen"] = bool(folder.excludes_seen())
    try:
        ReaRecConfig.from_dict(options["model"])
        TrainingOptions(**options["training"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder.options_file}: damaged: {error}") from error
    return options


def _adopt(values: dict[str, Any], before: dict[str, Any], fields: dict[str, str], given: set[str]) -> None:
    """Take the options of the interrupted run; UserError for one that was given and differs."""
    for name, field in fields.items():
        if name in given and values[field] != before.get(field):
            option = "--" + name.replace("_", "-")
            raise UserError(f"{option}: the run to resume was started with {before.get(field)}, not {values[field]}")
        values[field] = before.get(field, values[field])


def _as_option(message: str) -> str:
    """``temperature: got ...`` as ``--tau: got ...``."""
    field, colon, rest = message.partition(":")
    for name, known in (MODEL_FIELDS | TRAINING_FIELDS).items():
        if field == known:
            return f"--{name.replace('_', '-')}{colon}{rest}"
    return message


def _emit(out: Path, model: dict[str, Any], result: dict[str, Any], as_json: bool) -> None:
    answer = {"run": str(out), "method": model["method"], "steps": model["steps"], **result}
    emit(answer, as_json, lambda console: _render(console, out, model["method"], result))


def _render(console: Terminal, out: Path, method: str, result: dict[str, Any]) -> None:
    ending = "stopped early" if result["stopped_early"] else "all epochs done"
    console.print(
        f"best epoch {result['best_epoch']} of {result['epochs']} ({ending}); {result['parameters']:,} parameters"
    )
    rows = {f"{method} (validation)": result["valid"]}
    if result["test"] is not None:
        rows |= {method: result["test"], "popularity": result["test"]["popularity"], "markov": result["test"]["markov"]}
    console.print(metric_table("Test rows, full catalogue", rows, seen=result["seen"]))
    console.print(f"written to {out}")
