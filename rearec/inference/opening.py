"""A model with its catalogue: from a RUN folder, from a folder that holds a published one, or from the Hub."""

from __future__ import annotations

from pathlib import Path

import torch

from rearec.errors import UserError
from rearec.models.backbone import Backbone
from rearec.models.saved import locate_model
from rearec.reasoning import ReaRec
from rearec.run_folder import Catalog, RunFolder

__all__ = ["open_run"]


def open_run(
    name: str | Path,
    *,
    device: torch.device | str,
    backbone: Backbone | str | None = None,
    trust_code: bool = False,
) -> tuple[ReaRec, Catalog]:
    """The model of a finished training, and its items.

    Args:
        name: a RUN folder, or ``owner/name`` of one that was published on the Hugging Face Hub, where no such folder
            is. A folder that was downloaded from there holds no record of a training, and needs none.
        backbone, trust_code: as `ReaRec.from_pretrained` takes them.

    Raises:
        UserError: there is no such model, the training did not finish, or a file is missing or damaged.
    """
    run = RunFolder(name)
    if run.path.is_dir():
        is_published = run.catalog_file.is_file() and not run.options_file.is_file()
        if not (is_published and locate_model(name)):
            run.check_finished()
    elif run.path.exists() or "/" not in str(name):
        run.check_finished()
    else:
        run = RunFolder(locate_model(name, [run.catalog_file.name])[0].parent)
    model = ReaRec.from_pretrained(name, map_location=device, backbone=backbone, trust_code=trust_code)
    catalog = run.catalog()
    if len(catalog.item_ids) != model.config.num_items:
        raise UserError(
            f"{run.catalog_file}: damaged: {len(catalog.item_ids)} items, but the model has {model.config.num_items}"
        )
    return model, catalog
