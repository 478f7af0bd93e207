"""``rearec embed``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rearec.cli.command import Common, Force, command
from rearec.cli.output import emit, note, progress_bar
from rearec.cli.process import device_of
from rearec.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rearec.data import SequenceDataset

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(embed)


@command(uses=("device", "threads"))
def embed(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A prepared dataset.")],
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_PATH",
            help="A model of sentence-transformers, or any of transformers (mean of the last layer over real tokens), "
            "by its name on the Hugging Face Hub or in a folder. The paper's is meta-llama/Llama-3.1-8B.",
            show_default="sentence-transformers/all-MiniLM-L6-v2",
        ),
    ] = None,
    features: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Computed already: .npy, .safetensors or .feat1CLS.")
    ] = None,
    order: Annotated[
        str,
        typer.Option(
            metavar="ORDER",
            help="Lines of FILE: 'prepared', line i is item i of DIR; 'ids', the item ids are the lines; or a file of "
            "'item line' pairs.",
        ),
    ] = "prepared",
    pca: Annotated[
        int, typer.Option(min=0, help="Principal components to keep, fewer if there are fewer; 0 keeps all as it is.")
    ] = 768,
    batch_size: Annotated[int, typer.Option(min=1, help="Titles encoded at a time.")] = 32,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a title that are read.")] = 512,
    force: Force = False,
    common: Common = Common(),
) -> None:
    """Give the items of a prepared dataset features, for the backbones that read text.

    They are stored in DIR; row i belongs to item i of rearec.load_dataset(DIR). A run that was killed goes on where it
    was when it is started again. Without a network: --encoder FOLDER, or a model of the Hub's cache with
    HF_HUB_OFFLINE=1.
    """
    from rearec.data import load_dataset
    from rearec.data.features.check import check_features
    from rearec.data.features.embedding import drop_partial
    from rearec.data.features.storage import has_features, project, save_features
    from rearec.data.features.tokens import need

    if encoder is not None and features is not None:
        raise UserError("--encoder and --features exclude each other")
    if order != "prepared" and features is None:
        raise UserError("--order is about the rows of --features FILE")
    # Features that are there may be of another dataset: they must not keep this one from being opened.
    dataset = load_dataset(directory, features=False)
    if has_features(directory) and not force:
        raise UserError(f"{directory}: has features already; use --force to replace them")
    if pca:
        need("sklearn")
    if features is not None:
        vectors, description = _read(dataset, features, order)
    else:
        vectors, description = _encode(directory, dataset, encoder, common.device, batch_size, max_tokens)
    check_features(vectors, dataset.num_items, str(features or encoder))
    width = vectors.shape[1]
    if pca:
        note(f"principal components of {dataset.num_items:,} x {width}")
        vectors = project(vectors, pca)
    description |= {"width": width, "pca": vectors.shape[1] if pca else 0}
    save_features(directory, vectors, dataset.fingerprint, description)
    drop_partial(directory)
    result = {"dataset": str(directory), "items": dataset.num_items, "features": vectors.shape[1], **description}
    emit(
        result,
        common.as_json,
        lambda console: console.print(f"{result['items']:,} x {result['features']} in {directory}"),
    )


def _read(dataset: SequenceDataset, path: Path, order: str) -> tuple[NDArray[np.floating[Any]], dict[str, Any]]:
    from rearec.data.features.files import read_features, rows_of_items

    description = {"file": path.name, "order": order if order in ("prepared", "ids") else Path(order).name}
    if order == "prepared":
        if dataset.item_ids != (numbers := [str(row) for row in range(dataset.num_items)]) and set(
            dataset.item_ids
        ) == set(numbers):
            note("the item ids are row numbers in another order than the prepared one: is it --order ids?")
        return read_features(path, dataset.num_items), description
    rows, count = rows_of_items(order, dataset.item_ids)
    vectors = read_features(path, count)
    if len(vectors) <= rows.max():
        item = int((rows >= len(vectors)).argmax())
        bad = f"item {dataset.item_ids[item]!r} has row {rows[item]}"
        raise UserError(f"{path}: {len(vectors):,} rows, but {bad} (--order {order})")
    return vectors[rows], description


def _encode(
    directory: Path, dataset: SequenceDataset, name: str | None, device: str, batch_size: int, max_tokens: int
) -> tuple[NDArray[np.floating[Any]], dict[str, Any]]:
    from rearec.data.features.embedding import embed_titles
    from rearec.data.features.encoders import DEFAULT_ENCODER, load_encoder

    titles = dataset.item_titles
    if titles is None or not any(titles):
        raise UserError(f"{directory}: has no item titles to encode: prepare it again with --titles FILE")
    missing = sum(not title for title in titles)
    if missing:
        note(f"{missing:,} of {len(titles):,} items have no title: they get the features of an empty text")
    encoder = load_encoder(name or DEFAULT_ENCODER, device_of(device), max_tokens)
    with progress_bar(f"encoding {len(titles):,} titles") as progress:
        return embed_titles(directory, dataset, encoder, batch_size, progress), dict(encoder.description)
