"""Where the public sources of the paper's datasets are, and on what terms."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SOURCES", "Source", "SourceFile"]


@dataclass(frozen=True)
class SourceFile:
    """One file: its name here, its address, and its SHA-256 as hex digits where it is known."""

    name: str
    address: str
    sha256: str | None = None


@dataclass(frozen=True)
class Source:
    """What belongs together.

    Attributes:
        files: all that is fetched.
        terms: under which licence or terms, in a sentence.
        terms_address: where they stand.
        prepare: the command that reads it, DIR being the folder.
    """

    files: tuple[SourceFile, ...]
    terms: str
    terms_address: str
    prepare: str


AMAZON = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023"
AMAZON_TERMS = (
    "Amazon Reviews 2023 (McAuley Lab, UCSD) is published for research, to be cited as arXiv 2403.03952; its authors "
    "state no licence for the reviews"
)
CATEGORIES = {"baby": "Baby_Products", "cds": "CDs_and_Vinyl", "software": "Software", "video-games": "Video_Games"}


def _amazon(preset: str, category: str, raw: bool) -> Source:
    meta = SourceFile(f"meta_{category}.jsonl.gz", f"{AMAZON}/raw/meta_categories/meta_{category}.jsonl.gz")
    if raw:
        name = f"{category}.jsonl.gz"
        files: tuple[SourceFile, ...] = (SourceFile(name, f"{AMAZON}/raw/review_categories/{name}"),)
    else:
        names = [f"{category}.{part}.csv.gz" for part in ("train", "valid", "test")]
        files = tuple(SourceFile(name, f"{AMAZON}/benchmark/5core/timestamp_w_his/{name}") for name in names)
    read = " ".join(f"DIR/{file.name}" for file in (*files, meta))
    prepare = f"rearec prepare amazon2023 {read} --preset {preset} --out data"
    return Source((*files, meta), AMAZON_TERMS, "https://amazon-reviews-2023.github.io/", prepare)


SOURCES: dict[str, Source] = {
    **{name: _amazon(name, category, False) for name, category in CATEGORIES.items()},
    **{f"{name}-raw": _amazon(name, category, True) for name, category in CATEGORIES.items()},
    "yelp": Source(
        (SourceFile("Yelp-JSON.zip", "https://business.yelp.com/external-assets/files/Yelp-JSON.zip"),),
        "the Yelp Open Dataset is for personal, educational and academic use under Yelp's Dataset User Agreement",
        "https://business.yelp.com/data/resources/open-dataset/",
        "unzip DIR/Yelp-JSON.zip, tar -xf the archive in it, then rearec prepare yelp "
        "yelp_academic_dataset_review.json yelp_academic_dataset_business.json --out data",
    ),
}
