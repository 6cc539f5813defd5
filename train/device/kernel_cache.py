"""Tells whether a card needs MindSpore's kernels compiled, where its driver keeps them, and whether they are there.

MindSpore 2.10's plug-in has machine code of its kernels for compute capabilities 6.0, 6.1, 7.0, 7.5 and 8.0, which all
cards of 6.x, 7.x and 8.x run.  For newer cards it has their text only (PTX), which the driver compiles in the first
process that uses the card, and keeps in a folder for later ones.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from train.device.nvidia import Card, Driver, driver_environment

log = logging.getLogger(__name__)

NEEDED_BYTES = 160_096_016
"""Size of the plug-in's machine code for 8.0; that of a newer card is about as large."""

_CODE_FOR = (6, 7, 8)  # major numbers


def has_code_for(card: Card) -> bool:
    """Whether the plug-in has machine code that the card runs."""
    return card.capability[0] in _CODE_FOR


def is_too_old(card: Card) -> bool:
    """Whether the plug-in has neither machine code nor text for the card."""
    return card.capability[0] < _CODE_FOR[0]


@dataclass(frozen=True)
class KernelCache:
    """The folder in which a driver keeps what it has compiled for one kind of card.

    Attributes:
        folder: CUDA_CACHE_PATH.
        max_bytes: CUDA_CACHE_MAXSIZE, the size at which the driver removes older kernels.
        disabled: whether CUDA_CACHE_DISABLE forbids it.
        mark: an empty file that says that all kernels are there; its name holds whatever needs other kernels.
    """

    folder: Path
    max_bytes: int
    disabled: bool
    mark: Path

    @classmethod
    def of(cls, card: Card, driver: Driver, environment: Mapping[str, str] = driver_environment) -> KernelCache:
        """The cache as the variables describe it that the driver has read."""
        folder = Path(environment["CUDA_CACHE_PATH"])
        versions = f"mindspore-{importlib.metadata.version('mindspore')}-driver-{driver.version}"
        mark = folder / f"compiled-{versions}-card-{card.capability[0]}.{card.capability[1]}"
        disabled = environment.get("CUDA_CACHE_DISABLE", "0") != "0"
        limit = environment["CUDA_CACHE_MAXSIZE"]
        return cls(folder, int(limit) if limit.isdecimal() else 0, disabled, mark)

    @property
    def is_warm(self) -> bool:
        """Whether all kernels are there."""
        return self.mark.is_file() and not self.problem

    @property
    def problem(self) -> str:
        """Why every process would compile the kernels again, and what to do, in one line; empty if it would not."""
        if self.disabled:
            return "CUDA_CACHE_DISABLE is set, so every process compiles MindSpore's kernels again. Unset it."
        if self.max_bytes < NEEDED_BYTES:
            return (
                f"CUDA_CACHE_MAXSIZE: got {self.max_bytes:,} bytes, expected at least {NEEDED_BYTES:,}, so every "
                "process compiles MindSpore's kernels again. Unset it."
            )
        return ""

    def describe(self) -> str:
        """Folder, size and limit, for one line."""
        size = 0
        for path in self.folder.rglob("*"):
            with contextlib.suppress(OSError):  # the driver of another process has just removed it
                size += path.lstat().st_size
        return f"{self.folder}, {size / 1e6:,.0f} MB of at most {self.max_bytes / 1e6:,.0f} MB"

    def announce(self, card: Card) -> None:
        """Log, before the card is used for the first time, that its driver compiles."""
        log.info(
            "first use of %s (compute capability %d.%d): its driver compiles MindSpore's kernels once, for several "
            "minutes, and shows nothing meanwhile. They need about %.0f MB in the cache (%s).",
            card.name, *card.capability, NEEDED_BYTES / 1e6, self.describe(),
        )  # fmt: skip
        if self.problem:
            log.warning("warning: %s", self.problem)

    def set_warm(self) -> None:
        """Note that all kernels have been compiled."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.mark.touch()
        except OSError as error:
            log.warning("warning: compiled kernels are not kept, so every process compiles them again: %s", error)
