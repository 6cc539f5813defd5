"""Finds the videos that `make infer VIDEO=` names: a file, a folder, a list file or a glob."""

from __future__ import annotations

import csv
import glob
import io
import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.common.errors import UserError, reason_of
from pipeline.common.files import open_to_read
from pipeline.videos.names import ENDINGS

log = logging.getLogger(__name__)

PICTURES = "-predicted"
"""The names of pictures end with this before their ending, so that no picture has the name of a video."""

_LISTS = (".txt", ".csv", ".lst", ".list")
_IMAGES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".heic", ".avif", ".svg")
_AUDIO = (".mp3", ".wav", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".wma")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_EXPECTED = f"a video file ({', '.join(ending[1:] for ending in ENDINGS)}), a folder, a list file or a glob"
_MOST_LISTED_BYTES = 64 << 20


@dataclass(frozen=True)
class Input:
    """One video to predict.

    Attributes:
        path: the file, as it is named in results.
        name: a relative path for its pictures, without the ending; different for each input.
        true_label: the name of its class; None: unknown.
    """

    path: Path
    name: str = ""
    true_label: str | None = None


def find_inputs(text: str, output: Path) -> list[Input]:
    """The videos that a text names, each once.

    What exists under this very name comes before a glob, so that `[4K] clip.mp4` is that file.  Folders are searched
    with those in them, links too, for files with the ending of a video.  Hidden files, and pictures of infer in
    `output`, are left out.

    Args:
        text: `infer.image_path`.
        output: the folder of pictures.

    Raises:
        UserError: it names no video, or something that is no file of this machine.
    """
    path = Path(text)
    if not text:
        raise _refused("got ''", "Run `make infer VIDEO=clip.mp4`, or `make infer SPLIT=val` for the videos of shards.")
    if os.path.isdir(text):
        inputs = [Input(each) for each in _videos_in([text], output)]
        where = f"a folder without a video ({', '.join(ENDINGS)})"
    elif os.path.lexists(text):
        inputs = _of_file(path)
        where = "a list without a video"
    elif _URL.match(text):
        raise _refused(f"got the URL {text}", "Download it first.")
    elif text.isdecimal():
        raise _refused(f"got {text}, the number of a camera", "Record a file first.")
    elif glob.has_magic(text):
        inputs = [Input(each) for each in _matching(text, output)]
        where = f"a glob that matches no video ({', '.join(ENDINGS)})"
    else:
        raise _refused(f"got {text!r}, which does not exist", "Correct the path.")
    if not inputs:
        raise _refused(f"got {text!r}, {where}", "Name a video.")
    first_of_path = {each.path: each for each in reversed(inputs)}
    return _named([first_of_path[each] for each in dict.fromkeys(each.path for each in inputs)])


def _refused(got: str, action: str) -> UserError:
    return UserError(f"infer.image_path: {got}, expected {_EXPECTED}. {action}")


def _of_file(path: Path) -> list[Input]:
    """What a file is: a video, or a list of videos."""
    ending = path.suffix.lower()
    for endings, kind in ((_IMAGES, "an image"), (_AUDIO, "audio")):
        if ending in endings:
            raise _refused(f"got {str(path)!r}, {kind}", "Name a video.")
    try:
        mode = path.stat().st_mode
    except OSError as error:  # a link to nothing, or a ring of links
        raise _refused(f"got {str(path)!r}: {reason_of(error)}", "Correct the path.") from None
    if not stat.S_ISREG(mode):
        kind = "a device, such as a camera" if stat.S_ISCHR(mode) else "not a regular file"
        raise _refused(f"got {str(path)!r}, {kind}", "Record a file first.")
    return list(_listed(path)) if ending in _LISTS else [Input(path)]


def _listed(path: Path) -> Iterator[Input]:
    """The videos of a list: one path a line, or a comment after `#`; or a CSV with `path`, and perhaps `label`.

    A path is relative to the list's folder, or else to the current one.
    """
    with open_to_read(path) as file:
        content = file.read(_MOST_LISTED_BYTES + 1)
    if len(content) > _MOST_LISTED_BYTES:
        raise UserError(f"{path}: larger than {_MOST_LISTED_BYTES >> 20} MiB, expected a list of videos. Split it.")
    try:
        rows = _rows_of(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text in UTF-8, expected a list with one path a line. Correct it.") from None
    except csv.Error as error:
        raise UserError(f"{path}: {error}, expected a list with one path a line. Correct it.") from None
    for row in rows:
        name = row.get("path", "").strip()
        if not name or (name.startswith("#") and not os.path.lexists(path.parent / name)):  # a comment
            continue
        if "\0" in name:
            raise UserError(f"{path}: has a zero byte, expected a list with one path a line. Correct it.")
        beside = path.parent / name
        yield Input(beside if os.path.lexists(beside) else Path(name), true_label=row.get("label", "").strip() or None)


def _rows_of(text: str) -> list[dict[str, str]]:
    """The rows of a list, with `path` and perhaps `label`; a line ends at a line feed or a carriage return only."""
    first, *lines = io.StringIO(text, newline=None).readlines() or [""]
    header = [name.strip().lower() for name in next(csv.reader([first]), [])]
    if "path" not in header:
        return [{"path": line} for line in (first, *lines)]
    return [dict(zip(header, row, strict=False)) for row in csv.reader(lines)]


def _videos_in(folders: Iterable[str], output: Path) -> Iterator[Path]:
    """The files in folders and those in them that have the ending of a video."""
    for parent, names in _folders_in(folders):
        yield from (path for name in sorted(names) if _is_video(path := Path(parent, name), output))


def _folders_in(tops: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Folders and all in them that are not hidden, each with the names of its files.

    Links to folders are followed after the others, and each folder comes once, so that a ring of links ends.
    """

    def warn(error: OSError) -> None:
        log.warning("warning: %s: %s. Videos in it are not predicted.", error.filename, reason_of(error))

    waiting, seen = list(tops), set[str]()
    while waiting:
        for parent, folders, names in os.walk(waiting.pop(0), onerror=warn):
            place = os.path.realpath(parent)
            folders[:] = sorted(name for name in folders if not name.startswith(".")) if place not in seen else []
            if place not in seen:
                seen.add(place)
                waiting += [path for name in folders if os.path.islink(path := os.path.join(parent, name))]
                yield parent, names


def _matching(pattern: str, output: Path) -> Iterator[Path]:
    """The videos that a glob matches, and those in the folders that it matches."""
    matches = sorted(_matches(pattern))
    yield from (path for match in matches if not os.path.isdir(match) and _is_video(path := Path(match), output))
    yield from _videos_in(filter(os.path.isdir, matches), output)


def _matches(pattern: str) -> set[str]:
    """The paths that a glob matches; `**` is a folder and all in it, in which the glob of Python is lost in rings."""
    parts = pattern.split("/")
    if "**" not in parts:
        return set(glob.glob(pattern))
    place = parts.index("**")
    tops = glob.glob("/".join(parts[:place]) or "/") if place else ["."]
    after = "/".join(parts[place + 1 :])
    if not after:
        return set(tops)
    return {match for parent, _ in _folders_in(tops) for match in _matches(os.path.join(glob.escape(parent), after))}


def _is_video(path: Path, output: Path) -> bool:
    if path.suffix.lower() not in ENDINGS or path.name.startswith("."):
        return False
    drawn = path.stem.endswith(PICTURES) and os.path.realpath(output) in map(str, Path(os.path.realpath(path)).parents)
    return not drawn


def _named(inputs: list[Input]) -> list[Input]:
    """The same with names: the path below the folder common to all, with its ending where two differ by that only."""
    places = [os.path.abspath(each.path) for each in inputs]
    common = os.path.commonpath([os.path.dirname(place) for place in places])
    names = [os.path.relpath(place, common) for place in places]
    stems = [os.path.splitext(name)[0] for name in names]
    times = Counter(stem.casefold() for stem in stems)
    chosen = [stem if times[stem.casefold()] == 1 else name for stem, name in zip(stems, names, strict=True)]
    if len(set(chosen)) < len(chosen):  # `a.mp4`, `a.avi` and `a.mp4.avi`
        chosen = names
    return [replace(each, name=name) for each, name in zip(inputs, chosen, strict=True)]
