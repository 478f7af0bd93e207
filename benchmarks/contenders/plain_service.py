"""The service that one writes first: a FastAPI endpoint that calls `recommend` for each request, served by uvicorn.

`python benchmarks/contenders/plain_service.py RUN` prints its address as json, as `rearec serve RUN --json` does.
"""

from __future__ import annotations

import json
import socket
import sys
from dataclasses import asdict
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

import rearec


class Asked(BaseModel):
    """What is asked: some of what `rearec serve` takes."""

    histories: list[list[str]]
    k: int = 10


def main(run: str) -> None:
    app, model = FastAPI(), rearec.Recommender(run)

    @app.post("/v1/recommend")
    def recommend(asked: Asked) -> dict[str, Any]:
        return {"answers": [asdict(answer) for answer in model.recommend(asked.histories, asked.k)]}

    sock = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"address": f"http://127.0.0.1:{sock.getsockname()[1]}"}), flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False)).run(sockets=[sock])


if __name__ == "__main__":
    main(sys.argv[1])
