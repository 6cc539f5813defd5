"""Makes system calls of a program fail, by a small library in C that is loaded before the C library."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

# Calls on a path, and calls on a descriptor, whose path is looked up.  One that is not told to fail is passed on.
_SOURCE = r"""
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int fails(const char *call, const char *path) {
    const char *calls = getenv("FAULT_CALLS"), *part = getenv("FAULT_PATH"), *number = getenv("FAULT_ERRNO");
    if (!calls || !part || !number || !path || !strstr(calls, call) || !strstr(path, part)) return 0;
    errno = atoi(number);
    return 1;
}
static int fails_at(const char *call, int fd) {
    char link[64], path[PATH_MAX];
    if (!getenv("FAULT_CALLS") || !strstr(getenv("FAULT_CALLS"), call)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return fails(call, path);
}
#define REAL(type, name, ...) ((type (*)(__VA_ARGS__)) dlsym(RTLD_NEXT, name))
#define OPEN(name) int name(const char *path, int flags, ...) { \
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
    return fails("<open>", path) ? -1 : REAL(int, #name, const char *, int, ...)(path, flags, mode); }
#define OPENAT(name) int name(int folder, const char *path, int flags, ...) { \
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
    return fails("<open>", path) ? -1 : REAL(int, #name, int, const char *, int, ...)(folder, path, flags, mode); }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)
DIR *opendir(const char *path) {
    return fails("<open>", path) ? NULL : REAL(DIR *, "opendir", const char *)(path);
}
#define READ(name, call, data_t) ssize_t name(int fd, data_t *data, size_t n) { \
    return fails_at(call, fd) ? -1 : REAL(ssize_t, #name, int, data_t *, size_t)(fd, data, n); }
READ(read, "<read>", void) READ(write, "<write>", const void)
#define PREAD(name, call, data_t) ssize_t name(int fd, data_t *data, size_t n, off_t at) { \
    return fails_at(call, fd) ? -1 : REAL(ssize_t, #name, int, data_t *, size_t, off_t)(fd, data, n, at); }
PREAD(pread, "<read>", void) PREAD(pread64, "<read>", void)
PREAD(pwrite, "<write>", const void) PREAD(pwrite64, "<write>", const void)
#define PREADV(name) ssize_t name(int fd, const struct iovec *parts, int n, off_t at) { \
    if (fails_at("<read>", fd)) return -1; \
    return REAL(ssize_t, #name, int, const struct iovec *, int, off_t)(fd, parts, n, at); }
PREADV(preadv) PREADV(preadv64)
int flock(int fd, int how) { return fails_at("<flock>", fd) ? -1 : REAL(int, "flock", int, int)(fd, how); }
int fsync(int fd) { return fails_at("<fsync>", fd) ? -1 : REAL(int, "fsync", int)(fd); }
int rename(const char *from, const char *to) {
    return fails("<rename>", to) ? -1 : REAL(int, "rename", const char *, const char *)(from, to);
}
pid_t fork(void) { return fails("<fork>", "process") ? -1 : REAL(pid_t, "fork", void)(); }
pid_t vfork(void) { return fork(); }
int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*start)(void *), void *data) {
    if (fails("<thread>", "process")) return errno;
    return REAL(int, "pthread_create", pthread_t *, const pthread_attr_t *, void *(*)(void *), void *)(
        thread, how, start, data);
}
"""


@functools.cache
def _library() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="machine-faults-"))
    (folder / "faults.c").write_text(_SOURCE)
    library = folder / "machine_faults.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-o", library, folder / "faults.c", "-ldl", "-pthread"], check=True
    )
    return library


def preloading(library: Path) -> dict[str, str]:
    """The environment of a program that loads a library first."""
    # By its name: a path in LD_PRELOAD would end at a space.
    folders = [str(library.parent), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {"LD_PRELOAD": library.name, "LD_LIBRARY_PATH": ":".join(folders)}


def can_fail() -> bool:
    """Whether there is a compiler to make system calls fail with."""
    return shutil.which("gcc") is not None


def failing(calls: str, number: int, path: str) -> dict[str, str]:
    """The environment of a program some of whose system calls fail.

    Args:
        calls: one or more of `open read write flock fsync rename fork thread`, with spaces between.
        number: the errno.
        path: a part of the path of the files concerned; for fork and thread: `process`.
    """
    marked = "".join(f"<{call}>" for call in calls.split())
    return {
        **preloading(_library()), "FAULT_CALLS": marked, "FAULT_ERRNO": str(number), "FAULT_PATH": path,
    }  # fmt: skip


def check_line(done: subprocess.CompletedProcess[str], where: str, code: int = 74) -> None:
    """The command ended in one line about the file `where`, in words."""
    *before, last = done.stderr.splitlines()
    assert done.returncode == code, done.stderr
    assert last.startswith("error: ") and where in last, done.stderr
    assert not [line for line in before if line.startswith(("error:", "Traceback"))], done.stderr
    assert "[Errno" not in done.stderr and "Finished work" not in done.stderr
