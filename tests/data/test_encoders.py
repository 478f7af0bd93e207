"""Pre-trained models by name: from a folder, the Hub or its cache; one line in seconds where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError

from rearec.data.features.encoders import DEFAULT_ENCODER
from rearec.data.features.hub import is_local
from rearec.errors import UserError


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | None, bool], None]:
    """Sets what the Hub answers, None for "it has the model", and whether its cache has it."""

    def answers(error: Exception | None, cached: bool) -> None:
        def model_info(self: Any, name: str, *, timeout: float) -> None:
            assert 0 < timeout <= 30
            if error is not None:
                raise error

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
        monkeypatch.setattr(
            huggingface_hub, "try_to_load_from_cache", lambda *_: "/cache/config.json" if cached else None
        )

    return answers


def refusal(status: int) -> HfHubHTTPError:
    error = HfHubHTTPError.__new__(HfHubHTTPError)
    error.response = SimpleNamespace(status_code=status)  # type: ignore[assignment]
    return error


def test_a_folder_asks_nobody(tmp_path: Path, hub: Callable[[Exception | None, bool], None]) -> None:
    hub(AssertionError("asked"), False)
    assert is_local(str(tmp_path))


def test_the_hub_is_asked_before_libraries_are(hub: Callable[[Exception | None, bool], None]) -> None:
    hub(None, False)
    assert not is_local("some/model")
    # without the Hub, its cache serves
    hub(ConnectionError("no network"), True)
    assert is_local("some/model")
    hub(refusal(503), True)
    assert is_local("some/model")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("no network"), "cannot be reached (ConnectionError); give a folder"),
        (refusal(503), "cannot be reached (HfHubHTTPError); give a folder"),
        (refusal(404), "no such model on the Hugging Face Hub, or not for you"),
        (refusal(401), "no such model on the Hugging Face Hub, or not for you"),
    ],
)
def test_what_is_not_there_is_one_line_that_says_what_to_do(
    error: Exception, message: str, hub: Callable[[Exception | None, bool], None]
) -> None:
    hub(error, False)
    with pytest.raises(UserError) as refused:
        is_local("some/model")
    text = str(refused.value)
    assert text.startswith("some/model: cannot be loaded: there is no such folder") and message in text
    assert "\n" not in text and ("HF_HUB_OFFLINE=1" in text) == ("cannot be reached" in text)


def test_a_path_that_is_not_there_is_no_name(hub: Callable[[Exception | None, bool], None]) -> None:
    with pytest.raises(UserError, match="there is no such folder, and it is no name of the Hub"):
        is_local("/no/such/folder")


def test_the_default_is_small_and_free() -> None:
    assert DEFAULT_ENCODER == "sentence-transformers/all-MiniLM-L6-v2"
