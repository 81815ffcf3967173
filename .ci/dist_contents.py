"""Whether wheels and source archive hold what they should, by the files that git knows; .ci/dist calls it.

python .ci/dist_contents.py WHEEL WHEEL_OF_THE_SOURCE_ARCHIVE SOURCE_ARCHIVE
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile

PACKAGES = ("cifar_hapi", "callbacks")
COMPILED = {"cifar_hapi/engine/_winograd.abi3.so"}
BESIDE = {
    *("CHANGELOG.md", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "README.zh-CN.md"),
    *("pyproject.toml", "setup.cfg", "setup.py"),
}


def main(wheel: str, rebuilt: str, archive: str) -> None:
    package = set(
        subprocess.run(["git", "ls-files", *PACKAGES], capture_output=True, text=True, check=True).stdout.split()
    )
    for file in (wheel, rebuilt):
        compare(file, {name for name in wheel_names(file) if ".dist-info/" not in name}, package | COMPILED)
    compare(rebuilt, wheel_contents(rebuilt), wheel_contents(wheel))  # so that trying the one has tried both
    compare(archive, {name for name in archive_names(archive) if ".egg-info/" not in name}, package | BESIDE)
    print(f"{wheel}, {archive}: {len(package)} files of {' and '.join(PACKAGES)}, and what belongs to them")


def compare(file: str, found: set[str], expected: set[str]) -> None:
    """Exit, naming what differs, unless `file` holds what it should."""
    missing, surplus = sorted(expected - found), sorted(found - expected)
    if missing or surplus:
        sys.exit(f"{file}: missing {missing}, not expected {surplus}")


def wheel_names(file: str) -> set[str]:
    with zipfile.ZipFile(file) as wheel:
        return {name for name in wheel.namelist() if not name.endswith("/")}


def wheel_contents(file: str) -> set[str]:
    """Names, each with the checksum of what is in it."""
    with zipfile.ZipFile(file) as wheel:
        return {f"{each.filename} ({each.CRC:08x})" for each in wheel.infolist() if not each.is_dir()}


def archive_names(file: str) -> set[str]:
    """Without the folder that all is in."""
    with tarfile.open(file) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


if __name__ == "__main__":
    main(*sys.argv[1:])
