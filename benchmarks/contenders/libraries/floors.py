"""Lists without a model: by popularity, and by what followed the last item in training (first-order Markov)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from contenders.libraries.clock import StepClock
from contenders.libraries.contender import Contender
from contenders.libraries.task import IntArray, Sequences, Task


class Floor:
    """An item that never followed the last one comes after those that did, by popularity."""

    versions = ()

    def __init__(self, sequences: Sequences, markov: bool) -> None:
        self.sequences, self.markov = sequences, markov
        self.following: defaultdict[int, Counter[int]] = defaultdict(Counter)
        self.count = np.zeros(sequences.num_items, dtype=np.int64)

    def train(self, epochs: int, clock: StepClock) -> dict[str, Any]:
        for user in range(self.sequences.num_users):
            items = self.sequences.training(user).tolist()
            for item, follower in pairwise(items):
                self.following[item][follower] += 1
            np.add.at(self.count, items, 1)
        return {}

    def request(self, users: IntArray, top: int) -> Callable[[], IntArray]:
        return lambda: np.array([self._best(int(user), top) for user in users])

    def _best(self, user: int, top: int) -> IntArray:
        strength = self.count.astype(np.float64)
        if self.markov:
            followers = self.following[int(self.sequences.history(user)[-1])]
            strength[[*followers]] += (self.count.max() + 1.0) * np.array([*followers.values()])
        return np.argsort(-strength, kind="stable")[:top]

    def lists(self, answer: IntArray, users: IntArray, top: int) -> IntArray:
        return answer


def make(task: Task, sequences: Sequences) -> Contender:
    return Floor(sequences, bool(task.options.get("markov")))
