"""``built_wheel.py WHEEL``: whether a repaired wheel has what it must and nothing else. Prints what it found or what is
wrong; exit status 1 where something is."""

from __future__ import annotations

import io
import re
import sys
import zipfile
from pathlib import Path

from elftools.elf.elffile import ELFFile

MOST_BYTES = 3 << 20
# What every Linux with glibc has. torch's libraries are torch's, and OpenMP is the one that torch brings.
NEEDED = {
    *("libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0", "libgcc_s.so.1", "libstdc++.so.6"),
    *("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"),
}


def faults(path: Path) -> list[str]:
    """What is wrong with a wheel."""
    found = []
    if not re.search(r"-manylinux_2_\d+_(x86_64|aarch64)\.whl$", path.name):
        found.append(f"{path.name}: its platform is no manylinux_2_*")
    if path.stat().st_size > MOST_BYTES:
        found.append(f"{path.name}: {path.stat().st_size:,} bytes, {MOST_BYTES:,} at most")
    with zipfile.ZipFile(path) as wheel:
        libraries = [name for name in wheel.namelist() if ".so" in Path(name).suffixes]
        if len(libraries) != 1 or not libraries[0].startswith("rearec_kernels/_C."):
            found.append(f"holds the libraries {libraries}, expected rearec_kernels/_C alone")
        for name in libraries:
            found += [f"{name}: {fault}" for fault in faults_of_library(ELFFile(io.BytesIO(wheel.read(name))))]
    return found


def faults_of_library(library: ELFFile) -> list[str]:
    """What is wrong with a shared library."""
    found = []
    dynamic = library.get_section_by_name(".dynamic")
    for tag in dynamic.iter_tags():
        if tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH"):
            found.append("names folders to search for libraries in")
        if tag.entry.d_tag == "DT_NEEDED" and tag.needed not in NEEDED:
            found.append(f"needs {tag.needed}")
    symbols = library.get_section_by_name(".dynsym").iter_symbols()
    shown = sorted(x.name for x in symbols if x.entry.st_shndx != "SHN_UNDEF" and x.entry.st_info.bind != "STB_LOCAL")
    if shown != ["PyInit__C"]:
        found.append(f"shows {', '.join(shown)}, expected PyInit__C alone")
    return found


if __name__ == "__main__":
    wheel = Path(sys.argv[1])
    wrong = faults(wheel)
    print("\n".join(wrong) or f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, one library, one symbol, no path")
    sys.exit(1 if wrong else 0)
