"""What the service takes and gives, as pydantic models: checks and OpenAPI are made of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from rearec.inference.answers import Recommendation, SimilarItems
from rearec.inference.explanation import Explanation

__all__ = [
    "EventsRequest",
    "Failure",
    "ModelInfo",
    "ModelList",
    "RecommendRequest",
    "RecommendResponse",
    "ReloadRequest",
    "ReloadResponse",
    "SessionRequest",
    "SessionResponse",
    "SessionState",
    "SimilarRequest",
    "SimilarResponse",
    "State",
]

MOST_HISTORIES = 256
MOST_EXPLAINED = 4
LONGEST_HISTORY = 5_000
LONGEST_FILTER = 100_000
LONGEST_ID = 1_000
MOST_ITEMS = 1_000

Id = Annotated[
    Annotated[StrictStr, Field(max_length=LONGEST_ID)] | StrictInt,
    Field(
        union_mode="left_to_right",
        description="An item's id as the data's source wrote it; an integer is taken as its digits.",
    ),
]
# what pydantic calls the two in a fault
ID_BRANCHES = ("constrained-str", "int")
Ids = Annotated[list[Id], Field(max_length=LONGEST_FILTER)]
Count = Annotated[StrictInt, Field(ge=1, le=MOST_ITEMS, description="Items per answer.")]
Name = Annotated[
    StrictStr | None, Field(max_length=LONGEST_ID, description="A model of GET /v1/models; the first one if left out.")
]
Steps = Annotated[
    Annotated[StrictInt, Field(ge=0, le=1_000)] | None,
    Field(description="Reasoning steps, at most the trained number; left out or null: that number."),
]
FILTER = "one list for all histories, or a list of lists, one for each."


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class RecommendRequest(_Request):
    """Histories to answer."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"histories": [["1213", "1129"], ["1109"]], "k": 3, "exclude_seen": True}]}
    )

    histories: Annotated[
        list[Annotated[list[Id], Field(max_length=LONGEST_HISTORY)]],
        Field(
            min_length=1,
            max_length=MOST_HISTORIES,
            description="Ids of items, oldest first. An empty history is answered by the most popular items.",
        ),
    ]
    k: Count = 10
    exclude_seen: StrictBool | None = Field(
        None, description="Leave out the items of the history; left out or null: as the model was trained."
    )
    allow: Ids | list[Ids] | None = Field(None, description=f"The only items to recommend: {FILTER}")
    deny: Ids | list[Ids] | None = Field(None, description=f"Items not to recommend: {FILTER}")
    steps: Steps = None
    explain: StrictBool = Field(
        False,
        description=f"How the model came to the first item of each answer, for at most {MOST_EXPLAINED} histories; its "
        "rankings are those of all reasoning steps, without the filters.",
    )
    model: Name = None


class RecommendResponse(BaseModel):
    """An answer for each history, in their order."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "run",
                    "version": "5a1c",
                    "answers": [
                        {
                            "items": ["1213"],
                            "scores": [0.62],
                            "unknown": [],
                            "source": "model",
                            "titles": ["Premium Bread Flour"],
                            "prior": True,
                        }
                    ],
                    "skipped": {},
                }
            ]
        }
    )

    model: str = Field(description="The name of the model that answered.")
    version: str = Field(description="Tells its weights from those of before or after a reload.")
    answers: list[Recommendation]
    skipped: dict[str, list[str]] = Field(description="Ids of allow and of deny that the model does not know.")
    explanations: list[Explanation | None] | None = Field(
        None, description="Of each answer by the model, where they were asked for."
    )


class EventsRequest(_Request):
    """What a user has done since the last request."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"items": ["1213"]}]})

    items: Annotated[
        list[Id], Field(min_length=1, max_length=LONGEST_HISTORY, description="Ids of items, oldest first.")
    ]
    model: Name = None


class SessionState(BaseModel):
    """A session after its events were added."""

    model: str
    version: str
    user: str
    events: int = Field(description="All that it has, those of unknown items included.")
    encoded_anew: int = Field(description="How many times its window has been encoded anew.")


class SessionRequest(_Request):
    """What is asked of a session; as for a history."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"k": 3, "exclude_seen": True}]})

    k: Count = 10
    exclude_seen: StrictBool | None = Field(
        None, description="Leave out the items of the session; left out or null: as the model was trained."
    )
    allow: Ids | None = Field(None, description="The only items to recommend.")
    deny: Ids | None = Field(None, description="Items not to recommend.")
    steps: Steps = None
    model: Name = None


class SessionResponse(BaseModel):
    """The answer to a session."""

    model: str
    version: str
    answer: Recommendation
    skipped: dict[str, list[str]] = Field(description="Ids of allow and of deny that the model does not know.")


class SimilarRequest(_Request):
    """Items whose neighbours are wanted."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"items": ["1213"], "k": 3}]})

    items: Annotated[list[Id], Field(min_length=1, max_length=MOST_HISTORIES, description="Ids of known items.")]
    k: Count = 10
    model: Name = None


class SimilarResponse(BaseModel):
    """The items whose vectors have the largest cosine with each item's, in the order of the request."""

    model: str
    version: str
    answers: list[SimilarItems]


class ReloadRequest(_Request):
    """Which model is to be loaded anew, from the folder that the service was started with."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "run"}]})

    model: Name = None


class ReloadResponse(BaseModel):
    """What answers now."""

    model: str
    version: str
    changed: bool = Field(description="Whether its weights are others than before.")


class ModelInfo(BaseModel):
    """A model of the service."""

    name: str
    version: str
    loaded: float = Field(description="When, in seconds since 1970.")
    items: int
    steps: int = Field(description="The largest number of reasoning steps.")
    max_len: int = Field(description="How many items of a history the encoder reads.")
    excludes_seen: bool = Field(description="Whether it leaves out the items of the history unless told otherwise.")
    description: str


class ModelList(BaseModel):
    """The models of the service; the first one answers requests that name none."""

    models: list[ModelInfo]


class State(BaseModel):
    """What the service says of itself."""

    status: str


class Failure(BaseModel):
    """Why there is no answer, in one line."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"error": "k: Input should be less than or equal to 1000"}]}
    )

    error: str
