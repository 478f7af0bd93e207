"""``built_site.py FOLDER``: whether the pages of the built documentation ask no other site for anything, and each image
and each page of the navigation is there. Prints what is wrong; exit status 1 where something is."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from urllib.parse import unquote

# What a browser fetches by itself, unlike links that a reader follows.
FETCHED = re.compile(
    r'<(?:script|img|iframe|source|video|link(?=[^>]*rel="(?:stylesheet|preload|preconnect|icon)"))[^>]*>'
)


def faults(site: Path) -> list[str]:
    """What is wrong with a built site."""
    found = []
    pages = sorted(site.rglob("*.html"))
    if len(pages) < 30:
        found.append(f"{site}: {len(pages)} pages, expected at least 30")
    for page in pages:
        for tag in FETCHED.findall(page.read_text(encoding="utf-8")):
            target = re.search(r'(?:src|href)="([^"#?]+)', tag)
            if target is None or target[1].startswith("data:"):
                continue
            if re.match(r"[a-z]+:|//", target[1]):
                found.append(f"{page}: fetches {target[1]}")
            elif page.name != "404.html" and not (page.parent / unquote(target[1])).is_file():
                found.append(f"{page}: has no {target[1]}")
    for style in site.rglob("*.css"):
        found += [f"{style}: fetches {url}" for url in re.findall(r"url\((https?:[^)]+)\)", style.read_text("utf-8"))]
    return found


if __name__ == "__main__":
    wrong = faults(Path(sys.argv[1]))
    print("\n".join(wrong) or "the pages ask no other site for anything, and nothing is missing")
    sys.exit(1 if wrong else 0)
