"""What a recommender answers, as records, as a table, and as a notebook shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from rearec.report.notebook import html_table

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Item", "Recommendation", "SimilarItems", "as_frame"]

SHOWN = 5


@dataclass(frozen=True, repr=False)
class Recommendation:
    """The answer to one history.

    items: ids of the source, best first; fewer than k where the catalogue has no more to offer.
    scores: the model's score of each item (dot product of final state and item vector, and what the item graph adds
        where ``prior``; comparable within one answer only), or for an answer by popularity the item's training count.
    unknown: ids of the history that the model does not know, in order; they were skipped.
    source: "model", or "popularity" where no known item was left in the history.
    titles: of each item, None where it has none; None where the catalogue has no titles.
    prior: whether the model's item graph took part (`rearec.models.prior.GraphPrior`).

    Examples:
        >>> from rearec.inference import Recommendation
        >>> answer = Recommendation(["b7", "a3"], [1.5, 0.5], unknown=["?"], source="model", titles=["Tea", None])
        >>> answer.items[0]
        'b7'
        >>> answer
        Recommendation(b7 'Tea' 1.5000, a3 0.5000; by the model; 1 unknown item skipped)
    """

    items: list[str]
    scores: list[float]
    unknown: list[str]
    source: Literal["model", "popularity"]
    titles: list[str | None] | None = None
    prior: bool = False

    def __repr__(self) -> str:
        skipped = f"; {len(self.unknown)} unknown item{'s'[: len(self.unknown) != 1]} skipped" if self.unknown else ""
        by = self._by_model() if self.source == "model" else "by popularity"
        return f"Recommendation({listed(self.items, self.scores, self.titles)}; {by}{skipped})"

    def _repr_html_(self) -> str:
        skipped = f"; skipped, not in the catalogue: {', '.join(self.unknown)}" if self.unknown else ""
        by = self._by_model() if self.source == "model" else "the most popular items: no known item in the history"
        return ranking_html(f"recommended {by}{skipped}", self.items, self.scores, self.titles)

    def _by_model(self) -> str:
        return "by the model with the item graph" if self.prior else "by the model"


@dataclass(frozen=True, repr=False)
class SimilarItems:
    """The items most like one item.

    item: the id that was asked for; title: its title, None where it has none.
    items: ids of the source, most similar first, without the item itself.
    scores: the cosine of each one's vector with the item's.
    titles: of each of items, None where it has none; None where the catalogue has no titles.

    Examples:
        >>> from rearec.inference import SimilarItems
        >>> SimilarItems("b7", "Tea", ["a3"], [0.5], ["Rice"])
        SimilarItems(b7 'Tea': a3 'Rice' 0.5000)
    """

    item: str
    title: str | None
    items: list[str]
    scores: list[float]
    titles: list[str | None] | None = None

    def first(self, k: int) -> SimilarItems:
        """The first k of them."""
        return replace(self, items=self.items[:k], scores=self.scores[:k], titles=self.titles and self.titles[:k])

    def __repr__(self) -> str:
        return f"SimilarItems({named(self.item, self.title)}: {listed(self.items, self.scores, self.titles)})"

    def _repr_html_(self) -> str:
        return ranking_html(f"similar to {named(self.item, self.title)}", self.items, self.scores, self.titles)


@dataclass(frozen=True)
class Item:
    """What a catalogue says of one item.

    item: its id; title: None where it has none; popularity: how often it is in the training part.

    Examples:
        >>> from rearec.inference import Item
        >>> Item("b7", "Tea", popularity=12).title
        'Tea'
    """

    item: str
    title: str | None
    popularity: int


def as_frame(answers: Sequence[Recommendation], *, users: Sequence[str] | None = None) -> pl.DataFrame:
    """A row for each recommended item: row (of the history, from 0), user, rank (from 1), item, title, score, source.

    users: of each answer; None: there is no such column.
    """
    import polars as pl

    counts = [len(answer.items) for answer in answers]
    row = pl.Series("row", range(len(answers)), dtype=pl.Int64)
    repeated = [place for place, count in enumerate(counts) for _ in range(count)]
    frame = pl.DataFrame(
        {
            "row": row.gather(repeated),
            "rank": pl.Series([rank for count in counts for rank in range(1, count + 1)], dtype=pl.Int64),
            "item": pl.Series([item for answer in answers for item in answer.items], dtype=pl.String),
            "title": pl.Series(
                [title for answer in answers for title in answer.titles or [None] * len(answer.items)], dtype=pl.String
            ),
            "score": pl.Series([score for answer in answers for score in answer.scores], dtype=pl.Float64),
            "source": pl.Series([answers[place].source for place in repeated], dtype=pl.String),
        }
    )
    if users is None:
        return frame
    return frame.insert_column(1, pl.Series("user", [users[place] for place in repeated], dtype=pl.String))


def named(item: str, title: str | None) -> str:
    """An item as one reads it: its id and its title."""
    return item if title is None else f"{item} {title!r}"


def listed(items: Sequence[str], scores: Sequence[float], titles: Sequence[str | None] | None) -> str:
    """The first few of a ranking in one line."""
    shown = [
        f"{named(item, title)} {score:.4f}"
        for item, title, score in zip(items[:SHOWN], titles or [None] * len(items), scores, strict=False)
    ]
    more = [f"and {len(items) - SHOWN:,} more"] if len(items) > SHOWN else []
    return ", ".join([*shown, *more]) or "no item"


def ranking_html(
    caption: str, items: Sequence[str], scores: Sequence[float], titles: Sequence[str | None] | None
) -> str:
    """A ranking as a table in HTML."""
    rows = [
        [rank, item, title, score] if titles else [rank, item, score]
        for rank, (item, title, score) in enumerate(
            zip(items, titles or [None] * len(items), scores, strict=True), start=1
        )
    ]
    return html_table(caption, ["rank", "item", *(["title"] if titles else []), "score"], rows)
