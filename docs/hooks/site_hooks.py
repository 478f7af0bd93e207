"""What mkdocs does beside rendering: generated parts, pages from elsewhere in the repository, links out of the site."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backend_tables import backend_table
from command_pages import command_pages
from mkdocs.structure.files import File
from settings_tables import settings_tables

ROOT = Path(__file__).parents[2]
GENERATED: dict[str, Callable[[], str]] = {
    "commands": command_pages,
    "settings": settings_tables,
    "backends": backend_table,
}
# Pages of the site that lie elsewhere in the repository, by their place in the site.
PAGES = {"help/changelog.md": "CHANGELOG.md", "help/contributing.md": "CONTRIBUTING.md"}
FOLDERS = {
    "research/paper-scientific": "benchmarks/results/paper-scientific",
    "research/paper-ml-100k": "benchmarks/results/paper-ml-100k",
}
FOLDER_FILES = (".md", ".png", ".csv", ".svg")


def on_files(files: Any, config: Any) -> Any:
    """Adds what lies elsewhere."""
    for place, source in _from_elsewhere().items():
        files.append(File.generated(config, place, abs_src_path=str(source)))
    return files


def _from_elsewhere() -> dict[str, Path]:
    """Files by their place in the site."""
    found = {place: ROOT / source for place, source in PAGES.items()}
    for place, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in FOLDER_FILES:
                found[f"{place}/{path.relative_to(ROOT / folder).as_posix()}"] = path
    return found


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fills in what is generated; links that lead out of the site become their text."""
    markdown = re.sub(r"<!-- generated: (\w+) -->", lambda match: GENERATED[match[1]](), markdown)
    here = posixpath.dirname(page.file.src_uri)
    return re.sub(r"(?<!!)\[([^\]\[]+)\]\(([^)#\s]+)(#[^)\s]*)?\)", lambda match: _link(match, here, files), markdown)


def _link(match: re.Match[str], here: str, files: Any) -> str:
    target = match[2]
    if re.match(r"[a-z]+:", target):
        return match[0]
    uri = posixpath.normpath(posixpath.join(here, target))
    return match[0] if files.get_file_from_path(uri) or target.endswith(".html") else match[1]
