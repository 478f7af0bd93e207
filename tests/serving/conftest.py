"""A service of the small trained run, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from rearec import Recommender
from rearec.serving import ServedModels, ServeOptions, make_app

Start = Callable[..., TestClient]


@pytest.fixture(scope="module")
def recommender(run_folder: Path) -> Recommender:
    """What the service is to answer as."""
    return Recommender(run_folder)


@pytest.fixture
def start(run_folder: Path) -> Iterator[Start]:
    """Starts a service with options of `ServeOptions`, of ``small`` or of other runs by name."""
    with ExitStack() as stack:

        def service(runs: dict[str, Any] | None = None, **options: Any) -> TestClient:
            app = make_app(ServedModels(runs or {"small": run_folder}), ServeOptions(**options))
            return stack.enter_context(TestClient(app))

        yield service


@pytest.fixture(scope="module")
def client(run_folder: Path) -> Iterator[TestClient]:
    """A service that several tests share."""
    with TestClient(make_app(ServedModels({"small": run_folder}))) as service:
        yield service
