"""How to train: every setting of a training that is not the model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rearec.data.words import Pairing
from rearec.fields import checked_values, documented, setting
from rearec.models.config import ENCODER_BACKBONES, TEXTS

__all__ = ["TRAINING", "Contrast", "Precision", "Prior", "TrainingOptions"]

Schedule = Literal["constant", "cosine", "linear"]
Precision = Literal["fp32", "bf16", "bf16x3"]
Prior = Literal["none", "graph"]
Contrast = Literal["all", "own"]

TRAINING = "Training"


@documented
@dataclass(frozen=True)
class TrainingOptions:
    """How to train; every value is checked when the object is made, a wrong one raises ValueError naming it.

    Examples:
        >>> from rearec.training import TrainingOptions
        >>> TrainingOptions(epochs=20, batch_rows=512, precision="bf16").schedule
        'constant'
        >>> TrainingOptions(lr=0)
        Traceback (most recent call last):
        ValueError: lr: got 0, expected a finite number above 0
    """

    epochs: int = setting("At most so many.", default=200, panel=TRAINING, at_least=1)
    patience: int = setting(
        "Epochs without a better validation NDCG@20 before it stops.", default=10, panel=TRAINING, at_least=1
    )
    batch_rows: int = setting(
        "Predictions per step of training.",
        default=2048,
        more="They are called rows.",
        panel=TRAINING,
        flags="--batch-size",
        at_least=1,
    )
    pairing: Pairing = setting(
        "shared: a history is encoded once for all predictions made from it. overlapping: also where it is longer than "
        "--max-len, of which these then see half or more.",
        default="shared",
        more="separate: once per row, which gives the same numbers as shared without dropout and is several times "
        "slower. A row that needs more than max_len items is encoded by itself by both; overlapping lets such rows "
        "share encodings, each of them seeing between half and all of its last max_len items.",
        panel=TRAINING,
    )
    item_dropout: float = setting(
        "Share of the items that the histories of a training step are without, drawn anew each epoch.",
        default=0.0,
        more="An item that is left out leaves no gap; targets stay. Not for the Cloze objective, which masks items.",
        panel=TRAINING,
        at_least=0,
        below=1,
    )
    lr: float = setting("Learning rate of Adam.", default=1e-3, panel=TRAINING, above=0)
    encoder_lr: float | None = setting(
        "Its learning rate.",
        more="That of what comes trained already, a text encoder; None: a twentieth of lr.",
        panel=TEXTS,
        shown="a twentieth of --lr",
        above=0,
        backbones=ENCODER_BACKBONES,
    )
    weight_decay: float = setting("Of Adam, as an L2 term.", default=0.0, panel=TRAINING, at_least=0)
    clip: float = setting("Largest gradient norm; 0: no limit.", default=0.0, panel=TRAINING, at_least=0)
    schedule: Schedule = setting(
        "Of the learning rate, after its warm-up.",
        default="constant",
        more="cosine and linear fall to 0 at the last epoch.",
        panel=TRAINING,
    )
    lr_warmup: int = setting("Steps of linear rise of the learning rate.", default=0, panel=TRAINING, at_least=0)
    precision: Precision = setting(
        "Of the losses; bf16 on a GPU: autocast too. bf16x3: near float32, on CPUs.",
        default="fp32",
        more="The losses are most of the work. bf16: operands rounded to bfloat16, sums float32; on a CPU, where "
        "autocast is slower, all the rest stays float32. The weights are float32.",
        panel=TRAINING,
    )
    negatives: int = setting(
        "Items drawn per batch to train against, beside its targets; 0: against all items.",
        default=0,
        more="Sampled softmax for large catalogues: every score is corrected for its item's probability to be drawn. "
        "Validation and answers rank all items as ever. Not for an objective of one's own.",
        panel=TRAINING,
        at_least=0,
        below=2**31,
    )
    contrast: Contrast = setting(
        "Of several processes: prl contrasts a row with those of all, or of its own process.",
        default="all",
        more="all: as one process would with the whole batch. own: saves the exchange of the states; a row has fewer "
        "negatives, and the numbers depend on how many processes there are.",
        panel=TRAINING,
        methods=("prl",),
    )
    shard_catalog: bool = setting(
        "Of several processes each holds its part of the items' embeddings, for catalogues that one cannot hold.",
        default=False,
        more="With their gradients and what Adam keeps of them. The numbers are the same, and a run goes on without. "
        "For the backbones that know items by their ids.",
        panel=TRAINING,
    )
    prior: Prior = setting(
        "graph: items that often followed those of the history get a bonus, fitted on validation rows.",
        default="none",
        more="It is fitted when training is over (`fit_prior`) and takes no part in the choice of the best epoch.",
        panel=TRAINING,
    )
    exclude_seen: bool | None = setting(
        more="Whether validation ranks among the items that are not in a row's history; None: as the data says "
        "(`rearec.evaluation.seen_items`).",
        expected="True, False or None",
    )
    seed: int = setting(default=0, more="Of the initial weights and of every epoch.", at_least=0, below=2**63)

    def __post_init__(self) -> None:
        # Numbers stay as they were given: the names of an experiment's runs are made of them.
        for name, value in checked_values(self).items():
            if not isinstance(getattr(self, name), int | float | str | None):
                object.__setattr__(self, name, value)  # NumPy's, which json does not take
