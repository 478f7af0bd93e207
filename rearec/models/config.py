"""The configuration of a ReaRec model: everything that config.json holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, get_args

from rearec.fields import OWN, checked_values, documented, is_own, setting
from rearec.models.methods import METHODS, TRAITS, Method, Readout, Traits

__all__ = [
    "BACKBONES",
    "ID_BACKBONES",
    "METHODS",
    "MODEL",
    "OBJECTIVE",
    "OWN_BACKBONE",
    "OWN_METHOD",
    "TEXTS",
    "TEXT_BACKBONES",
    "ReaRecConfig",
]

IdBackbone = Literal["sasrec", "bert4rec"]
TextBackbone = Literal["unisrec", "morec"]
PaperBackbone = Literal[IdBackbone, TextBackbone]
# "own": a backbone of the user's own, see `rearec.models.backbone`.
Backbone = Literal[PaperBackbone, "own"]
Form = Literal["official", "paper"]

ID_BACKBONES: tuple[IdBackbone, ...] = get_args(IdBackbone)
TEXT_BACKBONES: tuple[TextBackbone, ...] = get_args(TextBackbone)
BACKBONES: tuple[PaperBackbone, ...] = get_args(PaperBackbone)
OWN_BACKBONE = OWN_METHOD = OWN
# Those that can train an encoder of texts too.
ENCODER_BACKBONES: tuple[Backbone, ...] = ("morec",)
# The backbone that can be trained on masked items.
CLOZE_BACKBONE: Backbone = "bert4rec"
REASONING = tuple(method for method in METHODS if TRAITS[method].reasons)
# A limit of the kernels: the width of an attention head.
MOST_HEAD_WIDTH = 1024

MODEL, TEXTS, OBJECTIVE = "Model", "Backbones that read texts", "Objective"
# Integers of a model are numbers of 32 bits.
INTEGERS = 2**31


@documented
@dataclass(frozen=True)
class ReaRecConfig:
    """Shape, method and objective of a model. The defaults are the paper's size and the official code's settings.

    Every value is checked when the object is made; a wrong one raises ValueError naming the field, what it got and
    what is expected. Integers are accepted where a float is expected.

    Examples:
        >>> from rearec.models import ReaRecConfig
        >>> ReaRecConfig(num_items=100, method="erl", steps=1, dim=64).has_reasoning_positions
        True
        >>> ReaRecConfig(num_items=100, dropout=1)
        Traceback (most recent call last):
        ValueError: dropout: got 1, expected a number in [0, 1)
    """

    num_items: int = setting(default=MISSING, more="Catalogue size N; item ids are 0..N-1.", at_least=1, below=INTEGERS)
    backbone: str = setting(
        "unisrec and morec read the items' texts: run 'rearec embed' before.",
        default="sasrec",
        more="How histories are encoded. 'module:factory' is an encoder of one's own, which that function makes of a "
        "configuration; 'own' is one that is given as a Python object.",
        panel=MODEL,
        choices=Backbone,
        offered=PaperBackbone,
        code=True,
    )
    method: str = setting(
        "base: no reasoning. erl, prl: the paper's two methods. naive, rpe: steps without their objectives.",
        default="prl",
        more=" ".join(f"{name}: {traits.help}." for name, traits in TRAITS.items())
        + " 'module:factory' is an objective of one's own, which that function makes of a configuration; 'own' is one "
        "that is given as a Python object.",
        panel=MODEL,
        choices=Literal[Method, "own"],
        offered=Method,
        code=True,
    )
    steps: int = setting(
        "Reasoning steps.",
        default=2,
        more="K, for which the model is trained; 0 makes every method of the paper equal to base.",
        panel=MODEL,
        at_least=0,
        below=INTEGERS,
        methods=REASONING,
    )
    dim: int = setting(
        "Model width.", default=256, more="A multiple of heads.", panel=MODEL, at_least=1, below=INTEGERS
    )
    ffn: int = setting("Inner width of the FFN.", default=300, panel=MODEL, at_least=1, below=INTEGERS)
    layers: int = setting("Transformer layers.", default=2, panel=MODEL, at_least=1, below=INTEGERS)
    heads: int = setting("Attention heads.", default=2, panel=MODEL, at_least=1, below=INTEGERS)
    max_len: int = setting(
        "Items of a history it sees.", default=50, more="The last ones.", panel=MODEL, at_least=1, below=INTEGERS
    )
    dropout: float = setting(
        "Of attention and of every sublayer's output.", default=0.5, panel=MODEL, at_least=0, below=1
    )
    input_dropout: float = setting(
        "Of the first layer's input.",
        default=0.2,
        more="Items and reasoning tokens alike.",
        panel=MODEL,
        at_least=0,
        below=1,
    )
    temperature: float = setting(
        "Temperature of the softmax.",
        default=0.07,
        more="τ, in training and at inference.",
        panel=OBJECTIVE,
        flags="--tau",
        above=0,
    )
    alpha: float = setting(
        "prl: annealing factor.", default=5.0, more="τ_t = τ·α^(K-t).", panel=OBJECTIVE, above=0, methods=("prl",)
    )
    kl_weight: float = setting(
        "erl: diversity weight.", default=0.05, more="λ.", panel=OBJECTIVE, at_least=0, methods=("erl",)
    )
    kl_form: Form = setting(
        "erl: form of the KL term.",
        default="official",
        more="official: mean over ordered pairs, gradient stopped on one side; paper: sum over i < j.",
        panel=OBJECTIVE,
        methods=("erl",),
    )
    step_weights: Form = setting(
        "prl: weights of the steps' losses.",
        default="official",
        more="official: 1 for the last state, pl_weight / K for each other; paper: 1 for every state.",
        panel=OBJECTIVE,
        methods=("prl",),
    )
    pl_weight: float = setting(
        "prl: weight of the earlier steps' loss.", default=1.0, panel=OBJECTIVE, at_least=0, methods=("prl",)
    )
    cl_weight: float = setting(
        "prl: weight of the contrastive term.", default=1.0, panel=OBJECTIVE, at_least=0, methods=("prl",)
    )
    noise: float = setting(
        "prl: noise of the contrastive term.",
        default=0.01,
        more="Its standard deviation γ.",
        panel=OBJECTIVE,
        at_least=0,
        methods=("prl",),
    )
    warmup: int = setting(
        "prl: epochs before the contrastive term.",
        default=2,
        panel=OBJECTIVE,
        at_least=0,
        below=INTEGERS,
        methods=("prl",),
    )
    noised_prefix: Literal["shared", "own"] = setting(
        "prl: whether the steps with noise, of the contrastive term, encode the history once more.",
        default="shared",
        more="own: yes, which differs from the encoding of the steps without noise by its dropout alone and costs a "
        "second pass over the histories. shared: both read one encoding.",
        panel=OBJECTIVE,
        methods=("prl",),
    )
    teacher: Literal["none", "graph"] = setting(
        "graph: every step also learns what the item graph knows to follow the last item, less of it with every step.",
        default="none",
        more="The neighbours of the last item in the training data's transitions as soft targets beside the target "
        "(ManCAR, arXiv 2602.20093); where the temperatures rise or fall, alpha says.",
        panel=OBJECTIVE,
    )
    teacher_weight: float = setting(
        "Of the soft targets, beside the target's 1.", default=0.3, panel=OBJECTIVE, at_least=0
    )
    teacher_neighbors: int = setting(
        "Neighbours that are targets too.", default=10, panel=OBJECTIVE, at_least=1, below=INTEGERS
    )
    feature_dim: int = setting(
        default=0,
        more="Width of the items' features, for the backbones that read texts; 0 for the others.",
        at_least=0,
        below=INTEGERS,
    )
    adaptor_dropout: float = setting(
        "Dropout of what makes item vectors of features.",
        default=0.2,
        panel=TEXTS,
        at_least=0,
        below=1,
        backbones=TEXT_BACKBONES,
    )
    experts: int = setting(
        "unisrec: whitenings to mix.", default=8, panel=TEXTS, at_least=1, below=INTEGERS, backbones=("unisrec",)
    )
    transductive: bool = setting(
        "unisrec: with embeddings of item ids too.", default=False, panel=TEXTS, backbones=("unisrec",)
    )
    adaptor_layers: int = setting(
        "morec: layers after the first one.",
        default=1,
        panel=TEXTS,
        at_least=0,
        below=INTEGERS,
        backbones=("morec",),
    )
    text_encoder: str | None = setting(
        "morec: train this transformers model too, on the items' titles; no features are read.",
        more="A name or a folder, read when training starts; feature_dim is then its width.",
        panel=TEXTS,
        metavar="NAME_OR_PATH",
        expected="a name, a folder or none",
    )
    text_tokens: int = setting(
        "Tokens of a title that it sees.",
        default=32,
        panel=TEXTS,
        at_least=1,
        below=INTEGERS,
        backbones=ENCODER_BACKBONES,
    )
    training_task: Literal["next-item", "cloze"] = setting(
        "bert4rec: trained on the item after each part of a history, or on masked items (cloze).",
        default="next-item",
        more="Either is evaluated on the next item.",
        panel=OBJECTIVE,
    )
    mask_share: float = setting(
        "cloze: share of the items that are masked.",
        default=0.2,
        panel=OBJECTIVE,
        above=0,
        below=1,
        backbones=(CLOZE_BACKBONE,),
    )

    readout: Readout | None = setting(
        more="The state that ranks items, where the objective is one's own, which says it: the last, or the mean of "
        "all; None where the method is the paper's.",
        expected="last, mean or None",
        methods=(),
    )
    positions: bool | None = setting(
        more="Whether reasoning tokens get a position embedding of their own; as readout.",
        expected="True, False or None",
        methods=(),
    )

    def __post_init__(self) -> None:
        for name, value in checked_values(self).items():
            object.__setattr__(self, name, value)
        if self.training_task == "cloze" and self.backbone != CLOZE_BACKBONE:
            raise ValueError(
                f"training_task: got 'cloze' for {self.backbone}, expected 'next-item': "
                f"masked items are for {CLOZE_BACKBONE} alone"
            )
        if self.training_task == "cloze" and self.teacher != "none":
            raise ValueError(
                f"teacher: got {self.teacher!r} for cloze, expected 'none': a masked item follows no last one"
            )
        if self.text_encoder is not None and self.backbone not in ENCODER_BACKBONES:
            known = ", ".join(ENCODER_BACKBONES)
            raise ValueError(f"text_encoder: got one for {self.backbone}, expected none: {known} alone can train it")
        if self.reads_texts != (self.feature_dim > 0) and not self.has_own_backbone:
            expected = "the width of the items' features" if self.reads_texts else "0: it reads no features"
            raise ValueError(f"feature_dim: got {self.feature_dim} for {self.backbone}, expected {expected}")
        if self.dim % self.heads:
            raise ValueError(f"dim: got {self.dim}, expected a multiple of heads ({self.heads})")
        if self.dim > MOST_HEAD_WIDTH * self.heads:
            raise ValueError(
                f"dim: got {self.dim}, expected at most {MOST_HEAD_WIDTH * self.heads}: "
                f"{MOST_HEAD_WIDTH} for each of the heads ({self.heads})"
            )
        self._check_method()

    def _check_method(self) -> None:
        """ValueError where the steps or what is said of an objective of one's own do not go with the method."""
        known = TRAITS.get(self.method)
        if known is None:
            if (self.readout is None) != (self.positions is None):
                raise ValueError("readout, positions: got one of them, expected both or none: the objective says them")
            return
        for name in ("readout", "positions"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected none: {self.method} says it")
        if not known.reasons:
            object.__setattr__(self, "steps", 0)
        if known.most_steps is not None and self.steps > known.most_steps:
            raise ValueError(
                f"steps: got {self.steps}, expected at most {known.most_steps} with the method {self.method}"
            )

    def __repr__(self) -> str:
        """As it is made, without what has its default."""
        shown = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if field.name in ("num_items", "backbone", "method", "steps") or getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    @property
    def traits(self) -> Traits:
        """What the model has to know of its method.

        Raises ValueError for an objective of one's own that has not said it (`rearec.objectives.Objective.fitted`).
        """
        known = TRAITS.get(self.method)
        if known is not None:
            return known
        if self.readout is None or self.positions is None:
            raise ValueError(
                f"method: {self.method!r} is an objective of one's own, expected readout and positions as it says them "
                "(rearec.objectives.Objective.fitted)"
            )
        return Traits(readout=self.readout, positions=self.positions)

    @property
    def has_own_backbone(self) -> bool:
        """Whether histories are encoded by what the user has made, named or given as an object."""
        return is_own(self.backbone)

    @property
    def reads_texts(self) -> bool:
        """Whether item vectors are made of vectors of their texts."""
        return self.backbone in TEXT_BACKBONES

    @property
    def reads_features(self) -> bool:
        """Whether these are frozen features."""
        return self.reads_texts and self.text_encoder is None

    @property
    def has_reasoning_positions(self) -> bool:
        """Whether reasoning tokens get a position embedding of their own."""
        return self.steps > 0 and self.traits.positions

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ReaRecConfig:
        """The configuration that `dataclasses.asdict` wrote; fields that are missing take their default.

        Raises ValueError for a field this version does not know, for a missing ``num_items`` and for wrong values.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(f"{name}: not a field of a ReaRec configuration, expected one of {', '.join(known)}")
        if "num_items" not in values:
            raise ValueError("num_items: missing, expected the number of items in the catalogue")
        return cls(**values)
