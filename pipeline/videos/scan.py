"""Lists the files in data_root, for matching them to label rows.

Symlinks out of data_root are not followed, and no file is opened.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.errors import reason_of
from pipeline.common.files import naming
from pipeline.videos.names import segment_of

OUTWARD = "symlink out of data_root"
_ODD = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")  # control characters, backslash, bytes that are not UTF-8


@dataclass(frozen=True)
class Files:
    """The files in a folder.

    Attributes:
        paths: every file, relative to the folder, with forward slashes, sorted.
        links: those of `paths` that are symlinks or are reached through one.
        refused: files that cannot be used, and why.
    """

    paths: list[str]
    links: frozenset[str]
    refused: list[tuple[str, str]]


def scan_videos(root: Path) -> Files:
    """List every file under `root`, following symlinks only where they stay inside it.

    A folder in it without permission to read is one of `Files.refused`.

    Raises:
        OSError: `root`, or for another reason than permission a folder in it, cannot be read.
    """
    real_root = os.path.realpath(root)
    refused: list[tuple[str, str]] = []
    plain, links = _walk("", real_root, refused)
    paths = plain
    linked: set[str] = set()
    followed: set[str] = set()
    while links:
        links.sort(reverse=True)  # by name, so that the result does not depend on the order of the directory
        path, place = links.pop()
        real = os.path.realpath(place)
        if not os.path.exists(real):
            refused.append((path, "symlink to a missing file"))
        elif not f"{real}/".startswith(f"{real_root}/"):
            refused.append((path, OUTWARD))
        elif not os.path.isdir(real) or "." in path and segment_of(path)[1]:
            linked.add(path)
        elif real not in followed and not f"{place}/".startswith(f"{real}/"):
            followed.add(real)  # once each, so that a ring of links ends
            files_below, links_below = _walk(f"{path}/", real, refused)
            linked.update(files_below)
            links += links_below
    paths += linked
    odd = {path for path in paths if _ODD.search(path)} if _ODD.search("".join(paths)) else set()
    refused += [(path, "name with characters that a ledger cannot hold") for path in odd]
    refused = sorted((ascii(path)[1:-1] if _ODD.search(path) else path, why) for path, why in refused)
    return Files(sorted(path for path in paths if path not in odd), frozenset(linked - odd), refused)


def _walk(prefix: str, folder: str, refused: list[tuple[str, str]]) -> tuple[list[str], list[tuple[str, str]]]:
    """Files below a folder, and symlinks, each with its place on the disk; symlinks are not followed.

    Adds to `refused` the folders that may not be read.

    Anything named like a video is a file here, even a FIFO or a folder: decoding reports it; `missing` would be wrong.
    """
    files: list[str] = []
    links: list[tuple[str, str]] = []
    folders = [(prefix, folder)]
    while folders:
        prefix, folder = folders.pop()
        try:
            listing = os.scandir(folder)
        except PermissionError as error:
            if not prefix:
                raise
            refused.append((prefix.rstrip("/"), f"folder with unknown videos: {reason_of(error)}"))
            continue
        with naming(folder), listing as entries:
            for entry in entries:
                if entry.name[0] == ".":
                    continue
                if entry.is_file(follow_symlinks=False):
                    files.append(prefix + entry.name)
                elif entry.is_dir(follow_symlinks=False) and not ("." in entry.name and segment_of(entry.name)[1]):
                    folders.append((f"{prefix}{entry.name}/", entry.path))
                elif entry.is_symlink():
                    links.append((prefix + entry.name, entry.path))
                else:
                    files.append(prefix + entry.name)
    return files, links
