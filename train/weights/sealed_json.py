"""Writes and reads the JSON beside weights: it has a checksum over its content, and changes together with the weights.

Records of earlier versions have no checksum; they are read without this check.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.common.files import replacing, write_json

_CHECKSUM = "checksum"
_BEFORE = "before"  # the record of the weights that are being replaced


class JsonError(ValueError):
    """Why a JSON file cannot be used, in a few words that follow `corrupted: `."""


def parse(content: bytes) -> dict[str, Any]:
    """One JSON object of UTF-8 text.

    Raises:
        JsonError: it is none.
    """
    try:
        value = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise JsonError(f"it is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise JsonError("its JSON is nested too deep") from None
    except ValueError as error:
        raise JsonError(f"it is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise JsonError("it is not a JSON object")
    return value


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a record with its checksum, atomically.

    Raises:
        OSError: the file cannot be written; an earlier one is unchanged.
    """
    write_json(path, {**content, _CHECKSUM: _digest(content)})


def read(path: Path, weights: Path | None = None) -> dict[str, Any]:
    """The content of a record.

    Args:
        path: the JSON.
        weights: the file it describes, if there is one.  If `replacing_pair` was killed, this decides between the
            record of the old weights and that of the new ones.

    Raises:
        JsonError: it is corrupted.
        OSError: it cannot be read.
    """
    content = parse(path.read_bytes())
    checksum = content.pop(_CHECKSUM, None)
    if checksum is not None and checksum != _digest(content):
        raise JsonError("its content differs from its checksum")
    before = content.pop(_BEFORE, None)
    if isinstance(before, dict) and weights is not None and weights.is_file() and _describes(before, sha256(weights)):
        return before
    return content


@contextlib.contextmanager
def replacing_pair(
    path: Path, json_path: Path, record_of: Callable[[str], dict[str, Any]], suffix: str = ""
) -> Iterator[Path]:
    """Replace a file of weights and the JSON that describes it; a reader finds the old pair or the new one.

    The new weights are complete under a temporary name first.  Then the JSON is written with both records, then the
    weights get their name, then the JSON is written without the old record.  So the JSON describes the weights at any
    moment, and a program that is killed leaves one of the two pairs.  Its temporary files are removed the next time.

    Args:
        path: the weights.
        json_path: the JSON.
        record_of: makes the JSON's content of the SHA-256 of the weights, which must be in it as `sha256`.
        suffix: ending of the temporary name.

    Yields:
        The temporary path, which the block must write.

    Raises:
        OSError: a file cannot be written; the old pair stays.
    """
    before, record = None, None
    _remove_left(path)
    _remove_left(json_path)
    try:
        with replacing(path, suffix) as temporary:
            yield temporary
            record = record_of(sha256(temporary))
            before = _record_of_old(path, json_path)
            write(json_path, record if before is None else {**record, _BEFORE: before})
    except BaseException:
        if record is not None and not path.exists():
            json_path.unlink(missing_ok=True)
        raise
    if before is not None:
        write(json_path, record)


def _remove_left(path: Path) -> None:
    """Remove the temporary files for `path` of processes that were killed."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp*"):
        process = left.name.removeprefix(f".{path.name}.").partition(".")[0]
        if process.isdecimal() and not Path("/proc", process).exists():
            left.unlink(missing_ok=True)


def _record_of_old(path: Path, json_path: Path) -> dict[str, Any] | None:
    """The record of the weights to be replaced; None if there are none, or if they are corrupted."""
    if not path.is_file():
        return None
    digest = sha256(path)
    if not json_path.is_file():
        return {"sha256": {path.name: digest}}
    try:
        record = read(json_path, path)
    except JsonError:
        return None
    return record if _describes(record, digest) else None


def _describes(record: dict[str, Any], digest: str) -> bool:
    """Whether a record is that of the weights with this SHA-256."""
    digests = record.get("sha256")
    return digest in digests.values() if isinstance(digests, dict) else digest == digests


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _digest(content: dict[str, Any]) -> str:
    """SHA-256 over the values, however the JSON is written."""
    plain = json.loads(json.dumps(content))  # lists instead of tuples, and text as keys, as `parse` returns them
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
