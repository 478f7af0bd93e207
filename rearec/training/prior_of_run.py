"""A graph prior for a training that is over: fitted, measured, and said in all files of its RUN folder."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from rearec.data.dataset import SequenceDataset
from rearec.errors import UserError, in_one_line
from rearec.evaluation import evaluate
from rearec.files import write_aside, write_json
from rearec.models.prior import GraphPrior
from rearec.models.saved import PRIOR_FILE
from rearec.reasoning import ReaRec
from rearec.run_folder import SAVING_PREFIX, RunFolder
from rearec.training.graph_prior import fit_prior
from rearec.training.session import card_of_run

__all__ = ["add_prior"]


def add_prior(
    folder: RunFolder, model: ReaRec, dataset: SequenceDataset, *, exclude_seen: bool | None = None, batch_rows: int
) -> GraphPrior | None:
    """Fit a graph prior for the model of a finished run and write the run anew, as if it had been trained with it.

    That is prior.safetensors, the metrics of result.json, and the card README.md with both. A prior that was there is
    replaced; where nothing is gained it goes, and the files say so. Whoever stops it leaves the folder as it was, or
    for the moment of the last renames without result.json: then it counts as unfinished, and ``resume`` completes it.

    folder, dataset: of a run that has valid rows. model: its model; it gets the prior.
    exclude_seen, batch_rows: as for `fit_prior`. What result.json says holds for the seen items of the run's training.

    Returns None where nothing is gained. Raises UserError where the folder cannot be written.
    """
    before, record = folder.result(), folder.options()
    model.prior = fit_prior(model, dataset, exclude_seen=exclude_seen, batch_rows=batch_rows)
    measure = partial(evaluate, model, dataset, exclude_seen=before["seen"] == "excluded", batch_rows=batch_rows)
    result = {**before, "valid": measure("valid", floors=False)}
    if before.get("test"):
        result["test"] = measure("test")
    try:
        with tempfile.TemporaryDirectory(prefix=SAVING_PREFIX, dir=folder.path) as name:
            aside = Path(name)
            if model.prior is not None:
                model.prior.save(aside / PRIOR_FILE)
            write_aside(aside / "README.md", card_of_run(model, dataset, record, result))
            write_json(aside / folder.result_file.name, result)
            folder.result_file.unlink()
            (folder.path / PRIOR_FILE).unlink(missing_ok=True)
            for file in (PRIOR_FILE, "README.md", folder.result_file.name):
                if (aside / file).exists():
                    (aside / file).replace(folder.path / file)
    except OSError as error:
        raise UserError(f"{folder.path}: the prior cannot be written: {in_one_line(error)}") from error
    return model.prior
