"""How the routes reply: records as json, and what a status other than 200 means."""

from __future__ import annotations

from typing import Any

from fastapi.responses import Response
from pydantic_core import to_json

from rearec.serving.schema import Failure

__all__ = ["as_json", "failures"]

MEANING = {
    400: "The request is not json that can be read.",
    401: "No valid key.",
    404: "There is no such model, item or page.",
    408: "The request did not arrive in time.",
    409: "The model cannot be loaded now; the old one still answers.",
    413: "The request is too large.",
    422: "The request does not say what it has to, or not within the limits.",
    503: "Too many requests are waiting, or the service is shutting down; Retry-After says when to come again.",
}


def as_json(value: Any) -> Response:
    """Records of all kinds as json; no second look at what the models have made."""
    return Response(to_json(value, inf_nan_mode="null"), media_type="application/json")


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Failure, "description": MEANING[status]} for status in (401, *statuses)}
