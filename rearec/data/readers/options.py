"""What a reader may be told."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ReadOptions"]


@dataclass(frozen=True)
class ReadOptions:
    """Options of the readers.

    Attributes:
        given: the three files are the train, valid and test part of a given split.
        user_column, item_column: names of the columns; "user_id" and "item_id" unless given.
        rating_column, timestamp_column: the same; "rating" and "timestamp" are used where they exist, a column that is
            named must exist.
        separator: of text tables; None for the extension's own.
    """

    given: bool = False
    user_column: str | None = None
    item_column: str | None = None
    rating_column: str | None = None
    timestamp_column: str | None = None
    separator: str | None = None

    @property
    def user(self) -> str:
        """Name of the user column."""
        return self.user_column or "user_id"

    @property
    def item(self) -> str:
        """Name of the item column."""
        return self.item_column or "item_id"

    @property
    def rating(self) -> str:
        """Name of the rating column."""
        return self.rating_column or "rating"

    @property
    def timestamp(self) -> str:
        """Name of the timestamp column."""
        return self.timestamp_column or "timestamp"
