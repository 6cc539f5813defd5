"""Writes one shard under a temporary name, checks it, and gives it its own name.  format.py describes the format."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from pipeline.common.files import keep_work, naming, sync_file, sync_folder
from pipeline.common.outcome import LATER_FIELDS, Outcome
from pipeline.common.recipe import FORMAT_VERSION, Preprocess
from pipeline.shards import libhdf5
from pipeline.shards.checksum import write
from pipeline.shards.direct_io import DirectFile
from pipeline.shards.encoding import Encoded
from pipeline.shards.format import INDEX_FIELDS, OUTCOME_FIELDS
from pipeline.shards.hdf5 import table
from pipeline.shards.store import Shard, open_shard


class ShardWriter:
    """Writes one shard under a temporary name; it gets its own name when it is complete and was opened without error.

    A context manager: leaving it with an exception removes the temporary file.

    Args:
        path: the shard's final path.
        settings: the recipe.
        split: train, val or test.

    Attributes:
        shard: the shard as it was opened for that check; set when the context was left without an exception.
    """

    shard: Shard

    def __init__(self, path: Path, settings: Preprocess, split: str) -> None:
        self.path = path
        # A cluster's worker may still write a shard of a run that has ended, while the next run writes it again.
        self._temporary = path.with_name(
            f".{path.name.removesuffix('.h5')}.{socket.gethostname()}-{os.getpid()}.h5.tmp"
        )
        self._settings = settings
        self._index: list[tuple] = []
        self._times: list[NDArray[np.float32]] = []
        self._outcomes: list[Outcome] = []
        self._temporary.unlink(missing_ok=True)  # left by a killed process, or planted
        self._file = libhdf5.create(self._temporary)
        # Frames go past libhdf5: its writes hold the interpreter's lock, and one that fails crashes the process later.
        self._raw = DirectFile(self._temporary)
        self._file.create_group("frames", track_order=False)
        if settings.codec == "jpeg":
            self._file.create_group("jpeg", track_order=False)
        self._file.attrs["format_version"] = FORMAT_VERSION
        self._file.attrs["recipe"] = settings.to_json()
        self._file.attrs["recipe_sha256"] = settings.fingerprint()
        self._file.attrs["split"] = split
        self._file.attrs["complete"] = False

    def add(self, outcome: Outcome, encoded: Encoded | None = None) -> None:
        """Add a video's outcome, and store its bytes if its status is ok.

        Args:
            outcome: what became of the video.
            encoded: its frames; None unless the status is ok.

        Raises:
            OSError: the disk is full or fails.
        """
        self._outcomes.append(outcome)
        if encoded is None:
            return
        offset = self._store("frames", outcome.video_id, encoded.data)
        starts = 0 if encoded.starts is None else self._store("jpeg", outcome.video_id, encoded.starts)
        row = (outcome.video_id, encoded.num_frames, offset, encoded.data.nbytes, encoded.crc32, starts)
        self._index.append(row)
        self._times.append(encoded.times_s.copy())  # its memory is the next video's

    def _store(self, group: str, name: str, data: NDArray) -> int:
        """Write a contiguous dataset; returns its byte offset in the file."""
        offset = libhdf5.reserve(self._file[group], name, data.shape, data.dtype)
        with naming(self.path):
            self._raw.write(data, offset)
        return offset

    def _store_times(self) -> list[int]:
        """Write the times of all frames; returns the byte offset of each video's."""
        if not self._times:
            self._file.create_dataset("times_s", data=np.empty(0, np.float32), track_times=False)
            return []
        offset = self._store("/", "times_s", np.concatenate(self._times))
        before = np.cumsum([0, *(times_s.nbytes for times_s in self._times[:-1])])
        return (offset + before).tolist()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()
            return
        try:
            with naming(self.path):
                self._publish()
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Delete what was written."""
        self._raw.close()
        self._temporary.unlink(missing_ok=True)
        if self._file.id.valid:
            libhdf5.abandon(self._file)

    def _outcomes_table(self) -> NDArray:
        unused = {name for name in LATER_FIELDS if not any(getattr(each, name) for each in self._outcomes)}
        fields = {name: kind for name, kind in OUTCOME_FIELDS.items() if name not in unused}
        return table([tuple(getattr(each, name) for name in fields) for each in self._outcomes], fields)

    def _publish(self) -> None:
        times = self._store_times()
        tables = {
            "index": table([(*row, time) for row, time in zip(self._index, times, strict=True)], INDEX_FIELDS),
            "outcomes": self._outcomes_table(),
        }
        room = sum(rows.nbytes for rows in tables.values()) + 4096 * len(self._outcomes) + (1 << 20)
        fd = self._raw.fd
        os.posix_fallocate(fd, 0, os.fstat(fd).st_size + room)  # so that libhdf5 cannot meet a full disk
        for name, rows in tables.items():
            self._file.create_dataset(name, data=rows, track_times=False)
        self._file.attrs["complete"] = True
        self._file.close()
        os.ftruncate(fd, libhdf5.end(fd))
        write(fd, [(offset, nbytes) for _, _, offset, nbytes, _, _ in self._index])
        sync_file(self._temporary)
        self._raw.close()
        shard = open_shard(self._temporary)  # a shard that cannot be opened is not published
        shard.reader()
        os.replace(self._temporary, self.path)
        sync_folder(self.path.parent)
        keep_work()
        self.shard = shard.at(self.path)
