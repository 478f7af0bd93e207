"""RePlay's `SasRec` with the full cross-entropy, through Lightning: parquet in, a DataFrame out;
one user by tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pandas as pd
import torch
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import ParquetModule, TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.nn.lightning import LightningModule
from replay.nn.lightning.callback import PandasTopItemsCallback
from replay.nn.lightning.optimizer import OptimizerFactory
from replay.nn.sequential import SasRec
from replay.nn.transform.template import make_default_sasrec_transforms

from contenders.libraries.clock import StepClock
from contenders.libraries.contender import Contender, Epochs, lists_of
from contenders.libraries.task import IntArray, Sequences, Split, Task

USER, ITEM = "user_id", "item_id"
ANSWERED = 256  # users of a batch, as in the other libraries


class _Tick(lightning.Callback):
    def __init__(self, clock: StepClock, watch: Epochs | None) -> None:
        self.clock, self.watch = clock, watch

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        # It also learns each sequence's first item from padding alone; counted is what has a history.
        real = batch["target_padding_mask"].squeeze(-1) & batch["padding_mask"]
        if self.clock.step(int(real.sum())):
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self.clock.pause()
        if self.watch and self.watch.ended():
            trainer.should_stop = True
        module.train()  # which the validation has put into evaluation, under a trainer of its own
        module.trainer = trainer


class RePlaySasRec(Contender):
    versions = ("replay-rec", "lightning", "pandas")

    def __init__(self, task: Task, sequences: Sequences) -> None:
        self.task, self.sequences, sizes = task, sequences, task.sizes
        self.padding = sequences.num_items
        self.schema = TensorSchema(
            [
                TensorFeatureInfo(
                    ITEM,
                    is_seq=True,
                    feature_type=FeatureType.CATEGORICAL,
                    embedding_dim=sizes.dim,
                    padding_value=self.padding,
                    cardinality=sequences.num_items,
                    feature_hint=FeatureHint.ITEM_ID,
                    feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, ITEM)],
                )
            ]
        )
        model = SasRec.from_params(
            self.schema,
            embedding_dim=sizes.dim,
            num_heads=sizes.heads,
            num_blocks=sizes.layers,
            max_sequence_length=sizes.max_len,
            hidden_dim=sizes.ffn,
            **task.options,
        )
        self.lightning = LightningModule(model, OptimizerFactory(learning_rate=sizes.lr))
        self.training = self._write("training", range(sequences.num_users), sequences.training)

    def _write(self, name: str, users: Any, items_of: Callable[[int], IntArray]) -> str:
        path = self.task.folder / f"{name}.parquet"
        pd.DataFrame({USER: users, ITEM: [items_of(user) for user in users]}).to_parquet(path)
        return str(path)

    def _trainer(self, **settings: Any) -> lightning.Trainer:
        return lightning.Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            **settings,
        )

    def _data(self, batch: int, slots: int, **paths: str) -> ParquetModule:
        columns = {USER: {}, ITEM: {"shape": slots, "padding": self.padding}}
        stages = [name.removesuffix("_path") for name in paths]
        transforms = make_default_sasrec_transforms(self.schema)
        return ParquetModule(
            batch,
            metadata={stage: columns for stage in stages},
            transforms={stage: transforms[stage] for stage in stages},
            **paths,
        )

    def train(self, epochs: int, clock: StepClock, watch: Epochs | None = None) -> dict[str, Any]:
        sizes = self.task.sizes
        data = self._data(sizes.batch_users(self.sequences), sizes.max_len + 1, train_path=self.training)
        self._trainer(max_epochs=epochs, limit_val_batches=0, callbacks=[_Tick(clock, watch)]).fit(self.lightning, data)
        return {}

    def module(self) -> LightningModule:
        return self.lightning

    def request(self, users: IntArray, top: int, split: Split = "test") -> Callable[[], Any]:
        self.lightning.eval()
        history = partial(self.sequences.history, split=split)
        if len(users) == 1:
            return self._one(int(users[0]), history(int(users[0])), top)
        data = self._data(ANSWERED, self.task.sizes.max_len, predict_path=self._write("histories", users, history))
        callback = PandasTopItemsCallback(top_k=top, query_column=USER, item_column=ITEM)
        trainer = self._trainer(callbacks=[callback], inference_mode=True)

        def answer() -> pd.DataFrame:
            trainer.predict(self.lightning, data, return_predictions=False)
            return callback.get_result()

        return answer

    def _one(self, user: int, history: IntArray, top: int) -> Callable[[], pd.DataFrame]:
        slots = self.task.sizes.max_len
        history = history[-slots:]
        items = np.full((1, slots), self.padding, dtype=np.int64)
        items[0, slots - len(history) :] = history
        tensor = torch.from_numpy(items)
        real = tensor != self.padding

        @torch.inference_mode()
        def answer() -> pd.DataFrame:
            logits = self.lightning.model({ITEM: tensor}, real)["logits"]
            return pd.DataFrame({USER: user, ITEM: logits.topk(top).indices[0].numpy()})

        return answer

    def lists(self, answer: pd.DataFrame, users: IntArray, top: int) -> IntArray:
        return lists_of(answer[USER].tolist(), answer[ITEM].tolist(), users, top)


def make(task: Task, sequences: Sequences) -> Contender:
    lightning.seed_everything(task.sizes.seed, verbose=False)
    Path(task.folder).mkdir(exist_ok=True)
    return RePlaySasRec(task, sequences)
