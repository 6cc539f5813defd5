"""Writes a run's scalars for TensorBoard.

tensorboardX's SummaryWriter has a thread and a queue: on a full disk the thread prints a traceback and the queue never
empties, and a process that is killed loses two minutes.  So only its messages and checksums are used.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from train.runs.append_file import AppendFile


class EventFile:
    """A new file of TensorBoard's events in a run folder.

    Args:
        folder: the run folder.
        first_step: TensorBoard hides what earlier files have of this step and later ones; None: no earlier files.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, folder: Path, first_step: int | None) -> None:
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._file = AppendFile(folder / name)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if first_step is not None:
            self._write(Event(wall_time=time.time(), step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, values: dict[str, float]) -> None:
        """Append the scalars of a step.

        Raises:
            OSError: they cannot be written, with the file's name.
        """
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: Event) -> None:
        """Append a record of TensorFlow's: length, its checksum, message, its checksum."""
        message = event.SerializeToString()
        length = struct.pack("<Q", len(message))
        checksums = [struct.pack("<I", masked_crc32c(part)) for part in (length, message)]
        self._file.write(length + checksums[0] + message + checksums[1])
