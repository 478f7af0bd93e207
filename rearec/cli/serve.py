"""``rearec serve``."""

from __future__ import annotations

import importlib.util
from typing import Annotated, Any

import typer

from rearec.cli.command import Common, command
from rearec.cli.finished_run import OfStates, TrustCode
from rearec.cli.options import options_of, with_options
from rearec.cli.output import emit, note
from rearec.cli.process import compute_device
from rearec.errors import UserError
from rearec.serving.options import ServeOptions

__all__ = ["register"]

NEEDED = ("fastapi", "uvicorn", "httptools", "prometheus_client")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(serve)


@with_options(options=options_of(ServeOptions))
@command(uses=("device", "threads"))
def serve(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Folders of finished trainings; NAME=RUN for a name of its own."),
    ],
    options: dict[str, Any],
    precision: OfStates = "fp32",
    trust_code: TrustCode = False,
    common: Common = Common(),
) -> None:
    """Answer requests over HTTP, many at a time, until SIGTERM or ^C; requests under way are answered first.

    POST /v1/recommend and /v1/similar, GET /v1/items/ID, /v1/models, /health, /ready, /metrics; POST /v1/reload loads a
    model that was trained anew. /openapi.json describes them. Needs the extra serve. There is no encryption: put a
    proxy before it where others than this machine are to reach it.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"serve needs {', '.join(missing)}, which the extra serve installs: pip install 'rearec[serve]'"
        )
    chosen = ServeOptions(**options)
    from rearec.serving.models import ServedModels, named_runs

    named = named_runs(runs)
    from rearec.serving.limits import read_keys
    from rearec.serving.server import bind
    from rearec.serving.server import serve as answer

    if chosen.api_key_file is not None:
        read_keys(chosen.api_key_file)
    sock = bind(chosen)  # before the models, which take longer
    device = compute_device(common.device)
    models = ServedModels(named, device=device, precision=precision, trust_code=trust_code)

    def ready(address: str) -> None:
        if common.as_json:
            emit({"address": address, "models": [*named]}, True, lambda console: None)
        else:
            note(f"serving {', '.join(named)} at {address}; {address}/openapi.json says how to ask")

    answer(models, chosen, sock=sock, ready=ready)
