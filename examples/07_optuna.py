# %% [markdown]
# # A search that cuts hopeless trials short
# `rearec tune` does this and more. Here it is by hand, to be changed: a trial is a training; a callback reports
# validation after each epoch and ends what lags behind. The test is looked at once, for the best.

# %%
import logging

import optuna
from lightning.pytorch.callbacks import Callback

import rearec
from rearec.data import sample_events

optuna.logging.set_verbosity(logging.WARNING)
data = rearec.Dataset.from_frame(sample_events(), user="user", item="item", time="time", titles="title")


class Prune(Callback):
    def __init__(self, trial):
        self.trial = trial

    def on_validation_end(self, trainer, module):
        self.trial.report(float(trainer.callback_metrics["valid_ndcg@20"]), trainer.current_epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def valid_ndcg(trial):
    settings = {
        "temperature": trial.suggest_float("temperature", 0.05, 1, log=True),
        "dropout": trial.suggest_float("dropout", 0.1, 0.5),
    }
    model = rearec.fit(data, epochs=2, callbacks=[Prune(trial)], progress=False, **settings)
    trial.set_user_attr("test", model.result["test"]["ndcg@20"])
    return model.result["valid"]["ndcg@20"]


# %%
study = optuna.create_study(
    direction="maximize",
    sampler=optuna.samplers.RandomSampler(seed=0),
    pruner=optuna.pruners.MedianPruner(n_startup_trials=1),
)
study.optimize(valid_ndcg, n_trials=3)
print(f"{len(study.trials)} trials; best {study.best_value:.4f} with {study.best_params}")
print(f"test NDCG@20 of the best, looked at once: {study.best_trial.user_attrs['test']:.4f}")
