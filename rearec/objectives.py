"""The training objectives: base, naive, rpe, erl (paper, section 3.3), prl (section 3.4), and those of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from rearec.data.batch import IGNORE_INDEX
from rearec.errors import UserError
from rearec.fields import is_code
from rearec.models.code import made_by
from rearec.models.config import OWN_METHOD, ReaRecConfig
from rearec.models.methods import TRAITS, Readout
from rearec.reasoning import Rollout
from rearec_kernels import (
    annealed_cross_entropy,
    annealed_temperatures,
    ensemble_reasoning_loss,
    reasoning_info_nce,
)

__all__ = ["OBJECTIVES", "Objective", "load_objective", "loss", "soft_targets", "step_weights"]


class Loss(Protocol):
    """What an objective computes of one batch."""

    def __call__(
        self, config: ReaRecConfig, rollout: Rollout, target: Tensor, group: Tensor, *, precision: str
    ) -> Mapping[str, Tensor]:
        """The terms by name, scalars, the same in every call; ``loss`` among them is what is minimised.

        Each is a mean over the rows with a target. Where several processes train together these are the rows of one,
        and what is minimised is the mean over those of all.

        rollout: states [R, T, d], the table [N, d] and, where the objective wants it, the noised branch [R, T - 1, d];
            with a teacher the graph's neighbours of the last items (`soft_targets`).
        target: int64 [R], -100 for rows that are to leave every term.
        group: int64 [R]: the users of the rows, as numbers.
        precision: of the loss kernels, see `rearec_kernels`.
        """


def _never(config: ReaRecConfig, epoch: int) -> bool:
    return False


@dataclass(frozen=True)
class Objective:
    """All that is asked of a method: how a model is trained by it, and what the model has to know of it.

    One of your own is returned by a function of a `ReaRecConfig` that ``--method module:function`` names, see
    docs/own-objective.md.

    loss: the terms of one batch (`Loss`).
    readout: which state ranks items: the "last", or the "mean" of all.
    positions: whether reasoning tokens get a position embedding of their own.
    noised: whether the loss reads a noised branch, by the configuration and the epoch (from 0); never by default.

    Examples:
        >>> import torch
        >>> from rearec.models import ReaRecConfig
        >>> from rearec.objectives import Objective
        >>> from rearec.reasoning import Rollout
        >>> def last_state(config, rollout, target, group, *, precision):
        ...     logits = rollout.states[:, -1] @ rollout.weight.T / config.temperature
        ...     return {"loss": torch.nn.functional.cross_entropy(logits, target)}
        >>> objective = Objective(loss=last_state, readout="mean")
        >>> config = objective.fitted(ReaRecConfig(num_items=50, method="own", steps=2, dim=8))
        >>> config.readout
        'mean'
        >>> rollout = Rollout(torch.zeros(4, 3, 8), torch.zeros(50, 8))
        >>> objective.terms(config, rollout, torch.arange(4), torch.arange(4))["loss"].item() > 3.9
        True
    """

    loss: Loss
    readout: Readout = "last"
    positions: bool = True
    noised: Callable[[ReaRecConfig, int], bool] = _never

    def fitted(self, config: ReaRecConfig) -> ReaRecConfig:
        """The configuration, which where the method is one's own then says how a model answers that was trained so."""
        if config.method in TRAITS:
            return config
        return replace(config, readout=self.readout, positions=self.positions)

    def terms(
        self, config: ReaRecConfig, rollout: Rollout, target: Tensor, group: Tensor, *, precision: str = "fp32"
    ) -> dict[str, Tensor]:
        """``loss``, to be differentiated, and the other terms, detached.

        Raises UserError where the function returns something else than scalars by name with ``loss`` among them.
        """
        found: Any = self.loss(config, rollout, target, group, precision=precision)
        expected = "expected scalar tensors by name, 'loss' among them"
        if not isinstance(found, Mapping) or "loss" not in found:
            what = f"the terms {', '.join(map(str, found))}" if isinstance(found, Mapping) else type(found).__name__
            raise UserError(f"method {config.method}: its loss returned {what}, {expected}")
        for name, term in found.items():
            if not isinstance(term, Tensor) or term.dim() > 0:
                what = f"a tensor of shape {list(term.shape)}" if isinstance(term, Tensor) else type(term).__name__
                raise UserError(f"method {config.method}: its loss returned {what} as {name!r}, {expected}")
        return {name: term if name == "loss" else term.detach() for name, term in found.items()}


def load_objective(config: ReaRecConfig, given: Objective | None = None) -> Objective:
    """The objective that ``config.method`` names; of one's own, this **runs the code** that makes it.

    given: the objective itself, for a method that is ``own``.

    Raises:
        ValueError: one is given beside another method, or missing.
        UserError: the code cannot be loaded (`rearec.models.code.made_by`).

    Examples:
        >>> from rearec.models import ReaRecConfig
        >>> from rearec.objectives import load_objective
        >>> load_objective(ReaRecConfig(num_items=50, method="erl")).readout
        'mean'
    """
    if (given is not None) != (config.method == OWN_METHOD):
        got = "got one beside" if given is not None else "missing for"
        raise ValueError(f"objective: {got} the method {config.method!r}; {OWN_METHOD!r} is the one that is given")
    if given is not None:
        return given
    if is_code(config.method):
        return made_by(config.method, config, Objective, "method")
    return OBJECTIVES[config.method]


def loss(
    config: ReaRecConfig, rollout: Rollout, target: Tensor, group: Tensor, *, precision: str = "fp32"
) -> dict[str, Tensor]:
    """The objective of ``config.method``, one of the paper's, on one batch.

    rollout: states [R, T, d], the table [N, d] and, for PRL's contrastive term, the noised branch [R, T - 1, d];
        without it the term is 0. Of a table that is a sample (``log_inclusion``), losses are estimates.
    target: int64 [R], the rows' items by their place in the table, -100 for rows that leave every term.
    group: int64 [R]; rows of one group (a user) are not each other's negatives in the contrastive term.
    precision: of the loss kernels, see `rearec_kernels`.

    Returns scalars: ``loss``, to be differentiated, and its terms, detached and not weighted: ``cross_entropy`` (the
    weighted sum over steps for prl, of the averaged state for erl, of the last state otherwise), ``kl`` (erl),
    ``contrastive`` (prl), ``teacher`` (erl with one; in the others it is part of ``cross_entropy``). If all rows are
    ignored everything is 0, the gradients too.

    Examples:
        >>> import torch
        >>> from rearec.models import ReaRecConfig
        >>> from rearec.objectives import loss
        >>> from rearec.reasoning import Rollout
        >>> config = ReaRecConfig(num_items=50, method="erl", steps=2, dim=8)
        >>> rollout = Rollout(torch.randn(4, 3, 8), torch.randn(50, 8))
        >>> sorted(loss(config, rollout, target=torch.arange(4), group=torch.arange(4)))
        ['cross_entropy', 'kl', 'loss']
    """
    return load_objective(config).terms(config, rollout, target, group, precision=precision)


def step_weights(config: ReaRecConfig, steps: int) -> list[float]:
    """PRL's weight of every state's cross-entropy, h_0..h_K: K + 1 numbers.

    Examples:
        >>> from rearec.models import ReaRecConfig
        >>> from rearec.objectives import step_weights
        >>> step_weights(ReaRecConfig(num_items=50, pl_weight=0.5), steps=2)
        [0.25, 0.25, 1.0]
    """
    if config.step_weights == "paper":
        return [1.0] * (steps + 1)
    return [config.pl_weight / steps] * steps + [1.0] if steps else [1.0]


def soft_targets(
    config: ReaRecConfig, rollout: Rollout, target: Tensor, steps: Sequence[int], *, hard: float = 1.0
) -> tuple[Tensor, Tensor] | None:
    """The targets of each step where the model has a teacher, as `annealed_cross_entropy` takes them; None without.

    At step t the target and the j-th neighbour of the last item share ``config.teacher_weight`` in proportion to 1 and
    exp(-j / (K - t + 1)), so that what is learnt becomes sharper with every step; the target has ``hard`` besides.

    steps: which steps the loss is of, from 0..K.

    Returns:
        int64 [R, 1 + m] items, -1 where there are fewer, and float32 [R, steps, 1 + m] masses.

    Examples:
        >>> import torch
        >>> from rearec.models import ReaRecConfig
        >>> from rearec.objectives import soft_targets
        >>> from rearec.reasoning import Rollout
        >>> config = ReaRecConfig(num_items=50, method="prl", steps=1, teacher="graph", teacher_weight=0.5)
        >>> rollout = Rollout(torch.zeros(1, 2, 8), torch.zeros(50, 8), neighbors=torch.tensor([[7, 3, -1]]))
        >>> items, mass = soft_targets(config, rollout, torch.tensor([3]), steps=range(2))
        >>> items.tolist(), mass[0].sum(1).tolist()  # the target is a neighbour too: it counts once
        ([[3, 7, -1, -1]], [1.5, 1.5])
    """
    if rollout.neighbors is None:
        return None
    neighbors = rollout.neighbors.masked_fill(rollout.neighbors == target[:, None], -1)
    items = torch.cat([target.clamp(min=0)[:, None], neighbors], dim=1)
    place = torch.arange(items.shape[1], device=items.device, dtype=torch.float32)
    softness = torch.tensor([config.steps - step + 1.0 for step in steps], device=items.device)
    share = torch.exp(-place / softness[:, None]) * (items >= 0)[:, None]
    mass = config.teacher_weight * share / share.sum(dim=2, keepdim=True)
    mass[..., 0] += hard
    return items, mass


def _last_state(
    config: ReaRecConfig, rollout: Rollout, target: Tensor, group: Tensor, *, precision: str
) -> dict[str, Tensor]:
    """Cross-entropy of the last state alone."""
    cross_entropy = annealed_cross_entropy(
        rollout.states[:, -1:],
        rollout.weight,
        target,
        temperature=config.temperature,
        soft_target=soft_targets(config, rollout, target, [config.steps]),
        log_inclusion=rollout.log_inclusion,
        ignore_index=IGNORE_INDEX,
        precision=precision,
    )
    return {"loss": cross_entropy, "cross_entropy": cross_entropy}


def _ensemble(
    config: ReaRecConfig, rollout: Rollout, target: Tensor, group: Tensor, *, precision: str
) -> dict[str, Tensor]:
    """Cross-entropy of the averaged state, minus the divergence between the states' distributions."""
    ensemble = ensemble_reasoning_loss(
        rollout.states,
        rollout.weight,
        target,
        temperature=config.temperature,
        kl_weight=config.kl_weight,
        kl_form=config.kl_form,
        log_inclusion=rollout.log_inclusion,
        ignore_index=IGNORE_INDEX,
        precision=precision,
    )
    terms = {"loss": ensemble.loss, "cross_entropy": ensemble.cross_entropy, "kl": ensemble.kl}
    if rollout.neighbors is None:
        return terms
    states = rollout.states.shape[1]
    teacher = annealed_cross_entropy(
        rollout.states,
        rollout.weight,
        target,
        temperature=config.temperature,
        step_weight=1 / states,
        soft_target=soft_targets(config, rollout, target, range(states), hard=0.0),
        log_inclusion=rollout.log_inclusion,
        ignore_index=IGNORE_INDEX,
        precision=precision,
    )
    return {**terms, "loss": ensemble.loss + teacher, "teacher": teacher}


def _progressive(
    config: ReaRecConfig, rollout: Rollout, target: Tensor, group: Tensor, *, precision: str
) -> dict[str, Tensor]:
    """Annealed cross-entropy over all states plus the contrastive term between noised and clean states."""
    steps = rollout.states.shape[1] - 1
    cross_entropy = annealed_cross_entropy(
        rollout.states,
        rollout.weight,
        target,
        temperature=annealed_temperatures(config.temperature, config.alpha, steps),
        step_weight=step_weights(config, steps),
        soft_target=soft_targets(config, rollout, target, range(steps + 1)),
        log_inclusion=rollout.log_inclusion,
        ignore_index=IGNORE_INDEX,
        precision=precision,
    )
    if rollout.noised is None or steps == 0 or config.cl_weight == 0:
        return {"loss": cross_entropy, "cross_entropy": cross_entropy, "contrastive": torch.zeros_like(cross_entropy)}
    contrastive = _contrastive(config, rollout, target, group, precision)
    if rollout.of_all is not None:
        contrastive = rollout.of_all(contrastive)
    total = cross_entropy + config.cl_weight * contrastive
    return {"loss": total, "cross_entropy": cross_entropy, "contrastive": contrastive}


def _contrastive(config: ReaRecConfig, rollout: Rollout, target: Tensor, group: Tensor, precision: str) -> Tensor:
    """InfoNCE of the rows that have a target, among those of all processes; 0 if there is none."""
    assert rollout.noised is not None
    noised, clean = rollout.noised, rollout.states[:, 1:]
    kept = (target != IGNORE_INDEX).nonzero().squeeze(1)
    if len(kept) < len(target):
        noised, clean, group = noised[kept], clean[kept], group[kept]
    contrast = partial(reasoning_info_nce, temperature=config.temperature, precision=precision)
    if rollout.gather is None:
        return contrast(noised, clean, row_group=group) if len(kept) else clean.new_zeros(())
    # every process takes part, whatever it has
    (clean, group), first = rollout.gather(clean, group)
    return contrast(noised, clean, row_group=group, first_key=first)


def _contrasts(config: ReaRecConfig, epoch: int) -> bool:
    """Whether the contrastive term counts in `epoch`: with steps and a weight, after ``warmup`` epochs."""
    return config.steps > 0 and config.cl_weight > 0 and epoch >= config.warmup


def _of_paper(name: str, loss: Loss, noised: Callable[[ReaRecConfig, int], bool] = _never) -> Objective:
    return Objective(loss, readout=TRAITS[name].readout, positions=TRAITS[name].positions, noised=noised)


OBJECTIVES: Mapping[str, Objective] = {
    "base": _of_paper("base", _last_state),
    "naive": _of_paper("naive", _last_state),
    "rpe": _of_paper("rpe", _last_state),
    "erl": _of_paper("erl", _ensemble),
    "prl": _of_paper("prl", _progressive, noised=_contrasts),
}
