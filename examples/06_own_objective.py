# %% [markdown]
# # A training objective of your own
# A function of the model's states that returns a loss. Everything else, from batches to resuming, is rearec's.
# This one asks every step to rank the target, the later ones more than the earlier, and smooths the labels.

# %%
import torch

import rearec
from rearec.data import sample_events
from rearec.objectives import Objective
from rearec.training import settings_for, train


def smoothed_steps(config, rollout, target, group, *, precision):
    """rollout.states [R, T, d]; rollout.weight [N, d]; target [R]."""
    weights = torch.linspace(1, 2, rollout.states.shape[1])
    logits = rollout.states @ rollout.weight.T / config.temperature  # [R, T, N]: fine for a small catalogue
    by_step = [
        torch.nn.functional.cross_entropy(logits[:, step], target, label_smoothing=0.1)
        for step in range(logits.shape[1])
    ]
    return {"loss": sum(w * each for w, each in zip(weights, by_step, strict=True)), "last_step": by_step[-1]}


def smoothed(config):
    """What `rearec train --method own_objective:smoothed` names, if this file is called own_objective.py."""
    return Objective(loss=smoothed_steps, readout="mean")


data = rearec.Dataset.from_frame(sample_events(), user="user", item="item", time="time", titles="title")
config, options = settings_for(data, method="own", steps=2, epochs=3)
train(data, "own-run", config, options, objective=smoothed(config), force=True)

# %% [markdown]
# How the model answers is stored with it: from here on no code of yours is needed.

# %%
model = rearec.load("own-run", data)
test = model.evaluate()
print(f"smoothed steps: NDCG@20 {test['ndcg@20']:.4f}, rules {test['rules']['ndcg@20']:.4f}")
print("last step by epoch:", [round(row["train_last_step"], 3) for row in model.history])
