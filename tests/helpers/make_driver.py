"""A fake NVIDIA driver and fake libraries, so that the search for them can be tested without a card."""

# STUB_CARDS is the driver's number of cards (0: cuInit fails as the real one does), STUB_CUDA its version of CUDA
# (12040 for 12.4), STUB_CAPABILITY the major number of the cards' compute capability (9).  With STUB_LOG, cuInit writes
# where it would keep compiled kernels.  It has every function of the driver that MindSpore's plug-in needs.

from __future__ import annotations

import subprocess
from pathlib import Path

from train.device.nvidia import LIBRARIES

_DRIVER = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static int number(const char *name, int otherwise) { const char *v = getenv(name); return v ? atoi(v) : otherwise; }
int cuInit(unsigned flags) {
    if (getenv("STUB_LOG")) fprintf(stderr, "cuInit: %s\n", getenv("CUDA_CACHE_PATH"));
    return number("STUB_CARDS", 0) ? 0 : 100;
}
int cuDriverGetVersion(int *version) { *version = number("STUB_CUDA", 12040); return 0; }
int cuDeviceGetCount(int *count) { *count = number("STUB_CARDS", 0); return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "Stub 9000", length); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 8ull << 30; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? number("STUB_CAPABILITY", 9) : 0;
    return 0;
}
int cuGetErrorName(int code, const char **name) {
    *name = code == 100 ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_UNKNOWN";
    return 0;
}
int cuLaunchKernel(void) { return 999; }
int cuModuleGetFunction(void) { return 999; }
int cuModuleLoadDataEx(void) { return 999; }
int cuModuleUnload(void) { return 999; }
int cuStreamSynchronize(void) { return 999; }
"""


def compile_library(source: str, path: Path, version: str = "") -> None:
    """Compile C into a shared library; with a version, its symbols have that version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["cc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{path.name}", "-xc", "-", "-o", str(path)]
    if version:
        script = path.with_suffix(".map")
        script.write_text(f"{version} {{ global: *; }};")
        command.insert(1, f"-Wl,--version-script={script}")
    subprocess.run(command, input=source, text=True, check=True)


def make_driver(folder: Path) -> None:
    """Write `libcuda.so.1` into a folder, for LD_LIBRARY_PATH."""
    compile_library(_DRIVER, folder / "libcuda.so.1")


def make_libraries(site: Path) -> None:
    """Write empty libraries where the wheels would put them; `int loaded_<folder>()` identifies each.

    The wheels have no `__init__.py`; with one, what is installed elsewhere does not count.
    """
    for _, folder, names in LIBRARIES:
        for name in names:
            compile_library(f"int loaded_{folder}(void) {{ return 1; }}", site / "nvidia" / folder / "lib" / name)
    (site / "nvidia" / "__init__.py").touch()
