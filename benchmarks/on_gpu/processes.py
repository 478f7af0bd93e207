"""Processes with a time limit, whose output goes to one log."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

TAIL_LINES = 40


@dataclass(frozen=True)
class Command:
    """Arguments, and variables added to the environment."""

    arguments: Sequence[str]
    variables: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join([*(f"{k}={shlex.quote(v)}" for k, v in self.variables.items()), shlex.join(self.arguments)])


@dataclass(frozen=True)
class Finished:
    """status: of the process, or None when it had to be stopped at its time limit."""

    status: int | None
    output: str
    seconds: float

    @property
    def ending(self) -> str:
        return "was stopped at its time limit" if self.status is None else f"ended with status {self.status}"

    @property
    def tail(self) -> str:
        return "\n".join(self.output.splitlines()[-TAIL_LINES:])


class Processes:
    """Starts commands in `folder`, with `variables` added to the environment, and appends their output to `log`."""

    def __init__(self, folder: Path, log: Path, variables: Mapping[str, str]) -> None:
        self.folder, self.log = folder, log
        self._environment = {**os.environ, **variables}

    def run(self, command: Command, limit: float) -> Finished:
        """Ends after `limit` seconds at most."""
        return self.run_together([command], limit)[0]

    def run_together(self, commands: Sequence[Command], limit: float) -> list[Finished]:
        """The same for several at a time."""
        deadline = time.monotonic() + limit
        started: list[_Running] = []
        try:
            for command in commands:
                started.append(_Running(command, self.folder, self._environment))
            finished = [running.finish(deadline) for running in started]
        finally:
            for running in started:
                running.stop()
        with self.log.open("a", encoding="utf-8") as log:
            for command, done in zip(commands, finished, strict=True):
                log.write(f"$ {command}\n{done.output}\n[{done.ending}, {done.seconds:.1f} s]\n\n")
        return finished


class _Running:
    def __init__(self, command: Command, folder: Path, environment: Mapping[str, str]) -> None:
        self._begin = time.monotonic()
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `finish`)
        self._process = subprocess.Popen(
            list(command.arguments),
            cwd=folder,
            env={**environment, **command.variables},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that what it starts can be stopped with it
        )

    def finish(self, deadline: float) -> Finished:
        status: int | None
        try:
            status = self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            status = None
            self.stop()
        seconds = time.monotonic() - self._begin
        self._output.seek(0)
        with self._output:
            return Finished(status, self._output.read().decode(errors="replace"), seconds)

    def stop(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
