"""Code of the user's own by name, ``module:factory``: imported when the user says so, and never for a file's sake."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rearec.errors import UserError, in_one_line
from rearec.fields import is_code
from rearec.models.backbone import Backbone
from rearec.models.config import ReaRecConfig

__all__ = ["load_backbone", "made_by", "source_of"]

Made = TypeVar("Made")


def load_backbone(config: ReaRecConfig) -> Backbone:
    """The encoder that the code makes which ``config.backbone`` names: **runs that code**.

    Raises UserError as `made_by`, and ValueError where config names none.
    """
    if not is_code(config.backbone):
        raise ValueError(f"backbone: got {config.backbone!r}, expected module:factory")
    return made_by(config.backbone, config, Backbone, "backbone")  # type: ignore[type-abstract]


def made_by(name: str, config: ReaRecConfig, kind: type[Made], what: str) -> Made:
    """What the factory ``module:factory`` makes of a configuration: **runs that code**.

    Modules are looked for in the current directory first, then where Python finds all others; the directory is not left
    in ``sys.path``.

    kind: what the factory has to return. what: the name of it in errors.

    Raises:
        UserError: there is no such module, importing it fails, it holds no such name or one that cannot be called, or
            the factory fails or returns something else; the library's error is the cause.
    """
    module, _, path = name.partition(":")
    with _current_directory_importable():
        found: Any = _imported(name, module, what)
        for part in path.split("."):
            try:
                found = getattr(found, part)
            except AttributeError as error:
                raise UserError(f"{what} {name}: module {module} ({_place(module)}) has no {path!r}") from error
        if not callable(found):
            raise UserError(f"{what} {name}: is a {type(found).__name__}, expected a function of the configuration")
        try:
            made = found(config)
        except Exception as error:
            reason = f"{type(error).__name__}: {in_one_line(error)}"
            raise UserError(f"{what} {name}: failed for this configuration with {reason}") from error
    if not isinstance(made, kind):
        expected = f"{kind.__module__}.{kind.__qualname__}"
        raise UserError(f"{what} {name}: returned a {type(made).__name__}, expected a {expected}")
    return made


def source_of(code: str | Callable[..., Any]) -> dict[str, str | None]:
    """What a run records of code that has been imported: its name, its file and that file's digest, None without one.

    code: its name, or the function or class itself.
    """
    if isinstance(code, str):
        name = code
    else:
        while isinstance(code, partial):
            code = code.func
        name = f"{code.__module__}:{getattr(code, '__qualname__', type(code).__qualname__)}"
    file = getattr(sys.modules.get(name.partition(":")[0]), "__file__", None)
    digest = None
    if file is not None and Path(file).is_file():
        digest = hashlib.blake2b(Path(file).read_bytes(), digest_size=16).hexdigest()
    return {"name": name, "file": file, "digest": digest}


def _imported(name: str, module: str, what: str) -> Any:
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and (module == missing or module.startswith(f"{missing}.")):
            where = f"neither in {Path.cwd()} nor among the installed packages"
            raise UserError(f"{what} {name}: there is no module {missing}, {where}") from error
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"{what} {name}: importing {module} failed with {reason}") from error


def _place(module: str) -> str:
    return getattr(sys.modules.get(module), "__file__", None) or "not of a file"


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    """As it is for ``python -m``; a command that pip has installed does not look there."""
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
