"""Downloads with the Hugging Face Hub's own library, from a server on this machine: whole, cut, refused."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from typer.testing import CliRunner

from rearec.cli.app import app
from rearec.data.download import HUB, SOURCES, download
from rearec.errors import UserError

SOFTWARE = SOURCES["software"]
CONTENT = {file: file.encode() * 3000 for file in SOFTWARE.files}
COMMIT = "0123456789" * 4


class Hub(http.server.ThreadingHTTPServer):
    """Has ``files``; the first answer with one of them is cut in its middle."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(CONTENT)
        self.cuts = 1
        self.sent: list[str] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        file = self.path.removeprefix(f"/datasets/{HUB}/resolve/main/")
        content = self.server.files.get(file)
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            cut, self.server.cuts = self.server.cuts > 0, self.server.cuts - 1
            self.server.sent.append(file)
            self.wfile.write(content[: len(content) // 2 if cut else None])
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    running = Hub()
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def test_the_files_come_from_the_hub_whole_or_not_at_all(hub: Hub, tmp_path: Path, run_rearec: Any) -> None:
    out = tmp_path / "new" / "raw"
    meta = SOFTWARE.files[-1]
    del hub.files[meta]
    asked = ("download", "software", "--out", out, "--accept-terms", "--json")
    where = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}", "HF_HOME": str(tmp_path), "no_proxy": "*"}
    failed = run_rearec(*asked, **where)
    assert failed.returncode == 2 and failed.stdout == ""
    assert "meta_Software.jsonl: cannot be fetched from McAuley-Lab/Amazon-Reviews-2023: 404" in failed.stderr
    # The one that was cut was asked for again.
    assert hub.sent == [SOFTWARE.files[0], *SOFTWARE.files[:-1]]
    names = sorted(name for name in os.listdir(out) if not name.startswith("."))
    assert names == ["Software.test.csv", "Software.train.csv", "Software.valid.csv"]

    hub.files = {meta: CONTENT[meta]}
    done = run_rearec(*asked, **where)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["files"] == {name: str(out / name) for name in SOFTWARE.names}
    assert sorted(os.listdir(out)) == sorted(SOFTWARE.names)
    assert all((out / Path(file).name).read_bytes() == content for file, content in CONTENT.items())
    assert result["prepare"].split()[:4] == ["rearec", "prepare", "amazon2023", str(out / "Software.train.csv")]

    # What is there needs no Hub; what is not says why it cannot be fetched.
    hub.files = {}
    assert run_rearec(*asked, **where, HF_HUB_OFFLINE="1").returncode == 0
    (out / "Software.test.csv").unlink()
    offline = run_rearec(*asked, **where, HF_HUB_OFFLINE="1")
    assert offline.returncode == 2 and "Software.test.csv: cannot be fetched" in offline.stderr
    assert "offline mode" in offline.stderr.lower() or "HF_HUB_OFFLINE" in offline.stderr
    assert not (out / "Software.test.csv").exists()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (OfflineModeIsEnabled("offline mode is enabled"), "offline mode is enabled"),
        (RuntimeError("Data processing error:\n  the rest"), "Data processing error: the rest"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_errors_are_one_line_with_what_lies_behind(
    error: Exception, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("An error happened. We cannot find it.") from error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(UserError) as raised:
        download(SOFTWARE, tmp_path)
    assert str(raised.value) == f"{tmp_path / 'Software.train.csv'}: cannot be fetched from {HUB}: {reason}"


def test_nothing_is_fetched_without_the_terms_and_into_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: pytest.fail("the Hub was asked"))
    runner = CliRunner()
    refused = runner.invoke(app, ["download", "software", "--out", str(tmp_path / "d")])
    assert refused.exit_code == 2 and not (tmp_path / "d").exists()
    assert "see https://amazon-reviews-2023.github.io/" in refused.stderr and "without --accept-terms" in refused.stderr
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(UserError, match="file"):
            download(SOFTWARE, folder)
    yelp = runner.invoke(app, ["download", "yelp", "--accept-terms", "--out", str(tmp_path / "d")])
    assert yelp.exit_code == 2 and not (tmp_path / "d").exists()
    terms, error = yelp.stderr.splitlines()
    assert "Dataset User Agreement; see https://business.yelp.com/" in terms
    assert "Yelp-JSON.zip at https://business.yelp.com/" in error and "rearec prepare yelp" in error


def test_the_table_names_every_dataset_with_its_terms() -> None:
    assert set(SOURCES) == {"yelp", *(n + r for n in ("baby", "cds", "software", "video-games") for r in ("", "-raw"))}
    for name, source in SOURCES.items():
        assert source.terms and source.terms_address.startswith("https://")
        assert all(f"DIR/{file}" in source.prepare for file in source.names)
        assert name.removesuffix("-raw") in source.prepare and bool(source.files) != bool(source.by_hand)
    runner = CliRunner()
    listed = runner.invoke(app, ["download"])
    assert listed.exit_code == 0 and "video-games-raw: Video_Games.jsonl, meta_Video_Games.jsonl" in listed.stdout
    unknown = runner.invoke(app, ["download", "books"])
    assert unknown.exit_code == 2 and "unknown source 'books'; known are baby, cds, software" in unknown.stderr
