"""What a dataset knows of its users."""

from __future__ import annotations

import numpy as np

from rearec.data import SequenceDataset
from rearec.errors import UserError
from rearec.inference.ids import read_ids

__all__ = ["UserHistories"]


class UserHistories:
    """All items of each user of a dataset, those to validate and test with included.

    Of a user with several sequences, as a given split may have, it is the longest one, the first among equals.
    """

    def __init__(self, dataset: SequenceDataset) -> None:
        self._dataset = dataset
        self._user_number = {user: number for number, user in enumerate(dataset.user_ids)}
        user = np.asarray(dataset.sequence_user)
        rising = np.lexsort((-np.arange(len(user)), np.diff(dataset.offsets)))
        self._sequence = np.zeros(dataset.num_users, np.int64)
        self._sequence[user[rising]] = rising  # what is assigned last stays

    def users(self, asked: object) -> list[str]:
        """The ids of a list, or of all users for "all"; TypeError for everything else."""
        if not isinstance(asked, str):
            return read_ids(asked, "users", "user")
        if asked != "all":
            raise TypeError(f'users: got {asked!r}, expected "all" or a list of ids')
        return self._dataset.user_ids

    def of(self, user: object) -> list[str]:
        """The ids of a user's items, oldest first; UserError where there is no such user."""
        (token,) = read_ids([user], "user")
        if token not in self._user_number:
            raise UserError(f"user {token!r} is not in the dataset")
        ids = self._dataset.item_ids
        return [ids[item] for item in self._dataset.sequence(int(self._sequence[self._user_number[token]])).tolist()]
