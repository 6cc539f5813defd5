"""Uses MindSpore's compile cache for the training step, in a way that cannot load the wrong graph.

MindSpore 2.10 numbers cached graphs in the order in which a process compiles them, always uses the first folder it was
given, and does not check that a graph is the right one (measured: another order, or another network, ended in memory
errors).  So only the first optimizer step of a process is cached, in a folder named after a hash of everything that
decides its graph; the folder gets this name when it is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mindspore as ms

log = logging.getLogger(__name__)

MAX_KEPT = 16
_SOURCES = Path(__file__).parents[2]
_used = False


@contextlib.contextmanager
def cached_compilation(shape: str) -> Iterator[None]:
    """Use the cache for what is compiled in the block; only the first time in a process.

    It is never used if the program is not a file (`python -c`, a notebook), because MindSpore reads the program's
    source.

    Args:
        shape: everything that decides the graph, except the code and the versions.
    """
    global _used
    if _used or not Path(sys.argv[0]).is_file():
        yield
        return
    _used = True
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kinetics-r2plus1d" / "graphs"
    final = root / _key(shape)
    warm = final.is_dir()
    try:
        root.mkdir(parents=True, exist_ok=True)
        # A name that nobody can guess, so that no link can wait under it.
        folder = final if warm else Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=root))
    except OSError as error:
        log.warning("warning: no compile cache: %s. The first step takes longer to compile each time.", error)
        yield
        return
    log.info("compile cache: %s", f"warm, {final}" if warm else "cold, so the first step takes longer to compile")
    ms.set_context(enable_compile_cache=True, compile_cache_path=str(folder))
    stderr = sys.stderr
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # it may be the reason
        raise
    finally:
        ms.set_context(enable_compile_cache=False)
        sys.stderr = stderr  # MindSpore replaces it by another object, which logging and tqdm do not use
    if not warm:
        with contextlib.suppress(OSError):  # another process has made it
            folder.rename(final)
        shutil.rmtree(folder, ignore_errors=True)
    try:
        os.utime(final)
        _prune(root)
    except OSError as error:  # for example, another process has removed it
        log.warning("warning: the compile cache is not complete: %s", error)


def _key(shape: str) -> str:
    shape = re.sub(r" at 0x[0-9a-f]+", "", shape)  # memory addresses of a cell's initialisers
    digest = hashlib.sha256(f"{ms.__version__} {ms.get_context('device_target')} {shape}".encode())
    for path in sorted([*_SOURCES.glob("model/**/*.py"), *_SOURCES.glob("train/**/*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


def _prune(root: Path) -> None:
    """Remove all but the MAX_KEPT graphs that were used last."""
    folders = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    for path in sorted(folders, key=lambda path: path.stat().st_mtime)[:-MAX_KEPT]:
        shutil.rmtree(path, ignore_errors=True)
