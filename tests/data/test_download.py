"""Downloads from a server on this machine: continued, checked, refused."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rearec.data import download as module
from rearec.data.download import CHECKSUMS, download
from rearec.data.sources import SOURCES, Source, SourceFile
from rearec.errors import UserError

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves ``content``; cuts the first ``cuts`` answers after ``cut_after`` bytes."""

    content = CONTENT
    edition = '"1"'
    cuts = 0
    cut_after = 100_000
    ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str | None] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def source(self, sha256: str | None = None, path: str = "file.gz") -> Source:
        return Source(
            (SourceFile("file.gz", f"{self.address}/{path}", sha256),), "free for tests", "nowhere", "read DIR"
        )


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append(asked)
        content = self.server.content
        if not self.path.endswith("file.gz"):
            self.send_error(404)
            return
        start = 0
        if asked and self.server.ranges and self.headers.get("If-Range") == self.server.edition:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", self.server.edition)
        self.end_headers()
        rest = content[start:]
        if self.server.cuts:
            self.server.cuts -= 1
            rest = rest[: self.server.cut_after]
        self.wfile.write(rest)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server on this machine, never reached through a proxy."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Server()
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def test_a_file_is_fetched_once_and_its_checksum_noted(server: Server, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    out = tmp_path / "new" / "folder"
    assert download(server.source(), out, lambda *values: told.append(values)) == {"file.gz": SHA256}
    assert (out / "file.gz").read_bytes() == CONTENT
    assert told[0] == ("file.gz", 0, len(CONTENT)) and told[-1] == ("file.gz", len(CONTENT), len(CONTENT))
    assert json.loads((out / CHECKSUMS).read_text()) == {"file.gz": SHA256}
    assert sorted(os.listdir(out)) == [CHECKSUMS, "file.gz"]
    assert download(server.source(), out) == {"file.gz": SHA256} and len(server.requests) == 1
    # What is there is checked against the note.
    (out / "file.gz").write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=r"file\.gz: its SHA-256 is .*, expected " + SHA256):
        download(server.source(), out)


def test_a_cut_connection_is_continued(server: Server, tmp_path: Path) -> None:
    server.cuts = 2
    assert download(server.source(SHA256), tmp_path) == {"file.gz": SHA256}
    assert server.requests == [None, "bytes=100000-", "bytes=200000-"]
    assert os.listdir(tmp_path) == ["file.gz"]


def test_the_next_call_goes_on_where_the_last_one_was_cut(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    server.cuts = 1
    with pytest.raises(UserError, match="the connection was cut after 100,000 of 300,000 bytes; the next try goes on"):
        download(server.source(), tmp_path)
    assert not (tmp_path / "file.gz").exists()
    assert download(server.source(), tmp_path) == {"file.gz": SHA256}
    assert server.requests == [None, "bytes=100000-"]


def test_a_connection_that_brings_nothing_is_not_tried_for_ever(server: Server, tmp_path: Path) -> None:
    server.cuts, server.cut_after = 99, 0
    with pytest.raises(UserError, match="the connection was cut after 0 of 300,000 bytes"):
        download(server.source(), tmp_path)
    assert len(server.requests) == 1


@pytest.mark.parametrize("change", ["another edition", "no ranges"])
def test_what_cannot_be_continued_begins_anew(
    change: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    server.cuts = 1
    with pytest.raises(UserError, match="cut"):
        download(server.source(), tmp_path)
    if change == "no ranges":
        server.ranges = False
    else:
        server.content, server.edition = b"new" + CONTENT, '"2"'
    download(server.source(), tmp_path)
    assert (tmp_path / "file.gz").read_bytes() == server.content


def test_a_kill_after_the_last_byte_costs_nothing(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".file.gz.partial").write_bytes(CONTENT)
    note = {"address": f"{server.address}/file.gz", "edition": '"1"'}
    (tmp_path / ".file.gz.partial.json").write_text(json.dumps(note))
    assert download(server.source(), tmp_path) == {"file.gz": SHA256}
    assert server.requests == ["bytes=300000-"]


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"the SHA-256 of what came is {SHA256}, expected {'0' * 64}; it is deleted"):
        download(server.source("0" * 64), tmp_path)
    assert os.listdir(tmp_path) == []


def test_what_is_not_there_or_not_reached(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/nothing: HTTP 404 Not Found"):
        download(server.source(path="nothing"), tmp_path)
    source = server.source()
    closed = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    free = closed.server_address[1]
    closed.server_close()
    unreached = Source((SourceFile("x", f"http://127.0.0.1:{free}/x"),), "", "", "")
    with pytest.raises(UserError, match=r"/x: cannot be reached: .*[Rr]efused"):
        download(unreached, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, not a folder"):
        download(source, tmp_path / "file" / "out")
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_the_command_asks_for_the_terms(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rearec.cli.app import app

    monkeypatch.setitem(SOURCES, "small", server.source())
    runner = CliRunner()
    refused = runner.invoke(app, ["download", "small", "--out", str(tmp_path / "d")])
    assert refused.exit_code == 2 and not (tmp_path / "d").exists() and not server.requests
    assert "terms: free for tests; see nowhere" in refused.stderr and "without --accept-terms" in refused.stderr
    done = runner.invoke(app, ["download", "small", "--out", str(tmp_path / "d"), "--accept-terms", "--json"])
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["files"] == {"file.gz": SHA256} and result["prepare"] == f"read {tmp_path / 'd'}"
    unknown = runner.invoke(app, ["download", "books"])
    assert unknown.exit_code == 2 and "unknown source 'books'; known are baby, cds, software" in unknown.stderr
    listed = runner.invoke(app, ["download"])
    assert listed.exit_code == 0 and "video-games-raw: Video_Games.jsonl.gz, meta_Video_Games.jsonl.gz" in listed.stdout


def test_the_table_names_every_dataset_with_its_terms() -> None:
    assert set(SOURCES) == {"yelp", *(n + r for n in ("baby", "cds", "software", "video-games") for r in ("", "-raw"))}
    for name, source in SOURCES.items():
        assert source.terms and source.terms_address.startswith("https://")
        assert all(file.address.startswith("https://") and file.address.endswith(file.name) for file in source.files)
        assert name.removesuffix("-raw") in source.prepare
