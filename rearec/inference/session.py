"""One user's history as it grows: every event is encoded once, and answered as the whole history would be."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from rearec.inference.answers import Recommendation
from rearec.inference.ids import few, read_ids
from rearec.inference.questions import Question

if TYPE_CHECKING:
    from rearec.inference.recommender import Recommender

__all__ = ["Session"]


class Session:
    """The history of one user, to which events are added; `recommend` answers it as `Recommender.recommend` would.

    What the model has computed of the items is kept, so that only new ones are encoded (`rearec.engine.growing`): for
    as long as the history fits the model's window; a longer one is encoded anew with every event, as its items' places
    in the window move on, and so is that of a model whose items see later ones. Scores are those of the whole history
    up to rounding. It is for one thread at a time. It keeps the model as it was when the session began: after
    `Recommender.refresh`, begin another with the same ``history``.

    Args:
        recommender: who answers.
        history: ids of the items to begin with, oldest first; unknown ids are skipped and reported.

    Raises:
        TypeError: history is a text, or holds something else than texts and integers.

    Examples:
        >>> import rearec
        >>> from rearec.models import ReaRecConfig
        >>> from rearec.run_folder import Catalog
        >>> model = rearec.ReaRec(ReaRecConfig(num_items=3, method="prl", dim=8))
        >>> recommender = rearec.Recommender(model, Catalog(["tea", "rice", "salt"], popularity=[5, 9, 1]))
        >>> session = rearec.Session(recommender, ["tea"])
        >>> session.append("rice")
        >>> session.recommend(k=5, exclude_seen=True).items
        ['salt']
        >>> session.history, session.encoded, session.encoded_anew
        (['tea', 'rice'], 2, 0)
    """

    def __init__(self, recommender: Recommender, history: Iterable[object] = ()) -> None:
        self.recommender = recommender
        self.history: list[str] = []
        self._grown = recommender.engine.growing()
        self.extend(history)

    def __repr__(self) -> str:
        return f"Session({len(self.history)} events, {len(self._grown.items)} of them known items)"

    @property
    def encoded(self) -> int:
        """How many items have been encoded for the first time."""
        return self._grown.encoded

    @property
    def encoded_anew(self) -> int:
        """How many times the whole window has been encoded anew."""
        return self._grown.encoded_anew

    @property
    def nbytes(self) -> int:
        """The memory of what the model has computed of the items, in bytes."""
        return self._grown.nbytes

    def append(self, item: object) -> None:
        """Adds one event, by the item's id; `extend` says more."""
        self.extend([item])

    def extend(self, items: Iterable[object]) -> None:
        """Adds events, oldest first, and encodes those of known items.

        Raises TypeError as the constructor; then none has been added.
        """
        ids = read_ids(items, "items")
        self._grown.extend(self.recommender.numbers(ids))
        self.history += ids

    def recommend(
        self,
        k: int = 10,
        *,
        allow: object = None,
        deny: object = None,
        exclude_seen: bool = False,
        steps: int | None = None,
    ) -> Recommendation:
        """The best k items after the history; arguments and errors as those of `Recommender.recommend`."""
        question = self.question(k, allow=allow, deny=deny, exclude_seen=exclude_seen, steps=steps)
        for name, ids in question.skipped.items():
            warnings.warn(f"{name}: skipped, not in the catalogue: {few(ids)}", stacklevel=2)
        ((answer,),) = self.recommender.answers([question])
        return answer

    def question(
        self,
        k: int = 10,
        *,
        allow: object = None,
        deny: object = None,
        exclude_seen: bool = False,
        steps: int | None = None,
    ) -> Question:
        """What `recommend` asks, for `Recommender.answers`, which answers it together with others."""
        question = self.recommender.question(
            [self.history], k, allow=allow, deny=deny, exclude_seen=exclude_seen, steps=steps
        )
        return replace(question, grown=self._grown)
