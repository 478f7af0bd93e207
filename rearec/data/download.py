"""The public sources of the paper's datasets: on what terms they are published, and how to get them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from rearec.errors import UserError, in_one_line
from rearec.files import check_folder, partial_name

__all__ = ["SOURCES", "Source", "download"]

# The dataset on the Hugging Face Hub that all files are fetched from.
HUB = "McAuley-Lab/Amazon-Reviews-2023"
AMAZON_TERMS = (
    "Amazon Reviews 2023 (McAuley Lab, UCSD) is published for research, to be cited as arXiv 2403.03952; its authors "
    "state no licence for the reviews"
)
CATEGORIES = {"baby": "Baby_Products", "cds": "CDs_and_Vinyl", "software": "Software", "video-games": "Video_Games"}


@dataclass(frozen=True)
class Source:
    """What belongs together.

    files: paths on the Hub of all that is fetched. by_hand: how to get what is not.
    terms: under which licence or terms, in a sentence; terms_address: where they stand.
    prepare: the command that reads it, DIR being the folder.
    """

    files: tuple[str, ...]
    terms: str
    terms_address: str
    prepare: str
    by_hand: str = ""

    @property
    def names(self) -> list[str]:
        """What the files are called here."""
        return [Path(file).name for file in self.files]


def _amazon(preset: str, category: str, raw: bool) -> Source:
    if raw:
        files = [f"raw/review_categories/{category}.jsonl"]
    else:
        files = [f"benchmark/5core/timestamp_w_his/{category}.{part}.csv" for part in ("train", "valid", "test")]
    files.append(f"raw/meta_categories/meta_{category}.jsonl")
    read = " ".join(f"DIR/{Path(file).name}" for file in files)
    prepare = f"rearec prepare amazon2023 {read} --preset {preset} --out data"
    return Source(tuple(files), AMAZON_TERMS, "https://amazon-reviews-2023.github.io/", prepare)


YELP = "https://business.yelp.com/data/resources/open-dataset/"
SOURCES: dict[str, Source] = {
    **{name: _amazon(name, category, False) for name, category in CATEGORIES.items()},
    **{f"{name}-raw": _amazon(name, category, True) for name, category in CATEGORIES.items()},
    "yelp": Source(
        (),
        "the Yelp Open Dataset is for personal, educational and academic use under Yelp's Dataset User Agreement",
        YELP,
        "rearec prepare yelp yelp_academic_dataset_review.json yelp_academic_dataset_business.json --out data",
        by_hand=f"Yelp hands out Yelp-JSON.zip at {YELP} to those who accept its agreement there; unzip it, and "
        "'tar -xf' the archive in it",
    ),
}


def download(source: Source, out: Path) -> dict[str, str]:
    """Fetch the files of ``source`` from the Hugging Face Hub into the folder ``out``, but those that are there.

    Progress is shown by `huggingface_hub`, which also checks what comes and heeds ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``
    and the like. A file has its name when all of it is there; until then it is in a hidden folder.

    Returns:
        The path of each file by its name.

    Raises:
        UserError: a file cannot be fetched or written.
    """
    from huggingface_hub import hf_hub_download

    check_folder(out)
    aside = out / partial_name("download")
    for file, name in zip(source.files, source.names, strict=True):
        if (out / name).exists():
            continue
        try:
            fetched = hf_hub_download(HUB, file, repo_type="dataset", local_dir=aside, library_name="rearec")
            Path(fetched).replace(out / name)
        except Exception as error:
            # Whatever the Hub, the network or the disk refuse, the libraries in between have an error of their own for.
            raise UserError(f"{out / name}: cannot be fetched from {HUB}: {_reason(error)}") from error
    shutil.rmtree(aside, ignore_errors=True)
    return {name: str(out / name) for name in source.names}


def _reason(error: Exception) -> str:
    """What lies behind an error of the Hub's library, in one line."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        return _reason(error.__cause__)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return in_one_line(error) or type(error).__name__
