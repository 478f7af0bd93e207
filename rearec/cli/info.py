"""``rearec info``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from rearec.cli.command import Common, command
from rearec.cli.output import emit
from rearec.cli.process import device_of

if TYPE_CHECKING:
    from rearec.cli.terminal import Terminal

__all__ = ["register"]

LIBRARIES = ("torch", "lightning", "triton", "numpy", "polars", "safetensors", "huggingface_hub")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(info)


@command(uses=("device", "threads"))
def info(
    common: Common = Common(),
) -> None:
    """Versions, the native build, which backends serve which device, threads, and whether a GPU is usable."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from rearec_kernels import build_info

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    result: dict[str, Any] = {
        "rearec": version("rearec"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: installed(name) for name in LIBRARIES},
        "threads": torch.get_num_threads(),
        "device": str(device_of(common.device)),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "build": build_info(),
    }
    emit(result, common.as_json, lambda console: _render(console, result))


def _render(console: Terminal, result: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(show_header=False, box=None)
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold")
    for name, value in result.items():
        if isinstance(value, dict):
            for inner, inner_value in value.items():
                table.add_row(inner if name == "libraries" else f"{name}: {inner}", _text(inner_value))
        else:
            table.add_row(name, _text(value))
    console.print(table)


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_text(inner)}" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return str(value)
