"""Protocols of others under which the tables can be made: their data, settings and published figures, as data.

A protocol decides what a training starts from and how its models are ranked; settings that are asked for go before its
own. What its authors published stands beside ours where the data is theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rearec.errors import UserError

if TYPE_CHECKING:
    from rearec.data.dataset import SequenceDataset

__all__ = ["PROTOCOLS", "Protocol", "Published", "protocol_named"]


@dataclass(frozen=True)
class Published:
    """What is published for one dataset: metrics in the order of the protocol's ``metrics``, by model."""

    file: str
    figures: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Protocol:
    """How others measure.

    source: what its facts and figures are taken from. data: where the files are to be had. prepare: a command with
    {file} and {name}. core: interactions of every user and item at least. settings: of `ReaRecConfig` and
    `TrainingOptions`, by field. metrics: of the tables. unlike: in what ours differs whatever is set. published: by
    the name of the data.
    """

    name: str
    source: str
    data: str
    prepare: str
    core: int
    settings: Mapping[str, Any]
    metrics: Sequence[str]
    unlike: Sequence[str] = ()
    published: Mapping[str, Published] = field(default_factory=dict)

    def check(self, dataset: SequenceDataset) -> None:
        """UserError where the dataset is split or filtered otherwise."""
        import numpy as np  # which the command line, for the names of the protocols, need not wait for

        length = np.diff(dataset.offsets)
        expected = f"--protocol {self.name}: expected data of '{self.prepare.format(file='FILE', name='DIR')}'"
        for split, back in (("valid", 2), ("test", 1)):
            rows = np.asarray(dataset.rows(split))  # type: ignore[arg-type]
            if len(rows) != dataset.num_users or (rows[:, 1] != length[rows[:, 0]] - back).any():
                raise UserError(f"{expected}, got {split} rows that are not their users' last items, one for each user")
        fewest = min(int(length.min()), int(np.bincount(dataset.items, minlength=dataset.num_items).min()))
        if fewest < self.core:
            raise UserError(f"{expected}, got a user or an item with {fewest} interactions, fewer than {self.core}")

    def published_for(self, dataset: SequenceDataset) -> tuple[str, Published] | None:
        """The name and the figures of the data that the dataset was prepared from; None where none are published."""
        stems = {Path(file).name.partition(".")[0] for file in dataset.source.get("files", [])}
        return next(((name, found) for name, found in self.published.items() if name in stems), None)

    def commands(self, artefacts: Sequence[str]) -> list[str]:
        """What one types to make these tables with the protocol's data, comments among them."""
        lines = [f"# {self.source}", f"# data: {self.data}"]
        for name, found in self.published.items():
            lines.append(self.prepare.format(file=found.file, name=name))
            asked = " ".join(artefacts)
            lines.append(f"rearec reproduce {asked} {name} --protocol {self.name} --out {name}-{self.name}")
        return lines


# The table's own settings are the history and that seen items stay; the rest is the model's configuration in the same
# state of the repository, which the table does not say that it was made with.
RECBOLE3 = Protocol(
    name="recbole3",
    source="RecBole 3.0, github.com/RUCAIBox/RecBole3.0 at 71b0d83 (2026-06-23): README, section 4, for the figures; "
    "configs/model/rearec.yaml for the settings",
    data="benchmark/5core/rating_only/CATEGORY.csv of McAuley-Lab/Amazon-Reviews-2023 on the Hugging Face Hub",
    prepare="rearec prepare amazon2023 {file} --split leave-one-out --out {name}",
    core=5,
    settings={
        "max_len": 20,
        "exclude_seen": False,
        "dim": 256,
        "ffn": 300,
        "layers": 2,
        "heads": 2,
        "dropout": 0.5,
        "input_dropout": 0.2,
        "temperature": 0.07,
        "steps": 2,
        "kl_weight": 0.05,
        "alpha": 5.0,
        "pl_weight": 1.0,
        "cl_weight": 1.0,
        "noise": 0.01,
        "warmup": 0,
        "batch_rows": 512,
        "lr": 1e-3,
        "epochs": 10,
        "patience": 2,
    },
    metrics=("recall@5", "recall@10", "ndcg@5", "ndcg@10"),
    unlike=(
        "the best epoch is chosen by NDCG@20 here, by NDCG@10 with gains of .001 at least there",
        "erl is ranked by the mean of its states here, by the last state there",
    ),
    published={
        "Musical_Instruments": Published(
            "Musical_Instruments.csv",
            {
                "LSRM": (0.0326, 0.0529, 0.0190, 0.0255),
                "HSTU": (0.0377, 0.0614, 0.0224, 0.0300),
                "HSTU-Large": (0.0410, 0.0659, 0.0253, 0.0333),
                "TIGER": (0.0360, 0.0562, 0.0236, 0.0301),
                "LETTER": (0.0354, 0.0552, 0.0230, 0.0294),
                "RPG": (0.0369, 0.0547, 0.0244, 0.0301),
                "LC-Rec": (0.0329, 0.0518, 0.0216, 0.0276),
                "E4SRec": (0.0333, 0.0529, 0.0210, 0.0273),
                "LARES": (0.0388, 0.0610, 0.0246, 0.0318),
                "ReaRec": (0.0345, 0.0546, 0.0219, 0.0284),
                "LlamaRec": (0.0407, 0.0611, 0.0269, 0.0335),
            },
        ),
        "Industrial_and_Scientific": Published(
            "Industrial_and_Scientific.csv",
            {
                "LSRM": (0.0240, 0.0391, 0.0142, 0.0191),
                "HSTU": (0.0288, 0.0466, 0.0165, 0.0222),
                "HSTU-Large": (0.0325, 0.0509, 0.0196, 0.0256),
                "TIGER": (0.0271, 0.0435, 0.0177, 0.0229),
                "LETTER": (0.0261, 0.0405, 0.0170, 0.0216),
                "RPG": (0.0257, 0.0384, 0.0174, 0.0215),
                "LC-Rec": (0.0259, 0.0401, 0.0175, 0.0220),
                "E4SRec": (0.0242, 0.0372, 0.0156, 0.0197),
                "LARES": (0.0296, 0.0466, 0.0182, 0.0236),
                "ReaRec": (0.0237, 0.0390, 0.0153, 0.0202),
                "LlamaRec": (0.0324, 0.0454, 0.0225, 0.0267),
            },
        ),
    },
)
PROTOCOLS: Mapping[str, Protocol] = {protocol.name: protocol for protocol in (RECBOLE3,)}


def protocol_named(name: str) -> Protocol:
    """The protocol of this name; UserError where there is none."""
    if name not in PROTOCOLS:
        raise UserError(f"--protocol: got {name!r}, expected one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
