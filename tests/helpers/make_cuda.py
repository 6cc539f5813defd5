"""Fake versions of the NVIDIA libraries with which MindSpore's GPU plug-in loads and compiles graphs without a card."""

# Each function that the plug-in of the installed MindSpore needs exists and does nothing: memory is the host's, a
# handle is a piece of it, a size is 256 bytes.  So MindSpore chooses its kernels, checks their types and shapes and
# fuses operators as on a card; nothing can be computed.  With STUB_LOG the calls that tests check go to stderr.

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from pathlib import Path

from make_driver import compile_library

from train.device import nvidia

_COMMON = r"""
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define SAY(...) if (getenv("STUB_LOG")) fprintf(stderr, "cuda: " __VA_ARGS__)
static void *memory(size_t bytes) { return aligned_alloc(512, (bytes + 511) / 512 * 512); }
"""

# Functions that are not `int f(void) { return 0; }`, by pattern of their name.
_FUNCTIONS = (
    ("cudaGetDeviceCount", "int {0}(int *count) {{ *count = 1; return 0; }}"),
    # cudaDeviceProp of CUDA 11: the name, total memory, warp size, largest block, compute capability 8.0.
    ("cudaGetDeviceProperties", "int {0}(char *p, int device) {{ memset(p, 0, 728); strcpy(p, \"Stub\");"
     " *(size_t *)(p + 288) = 8ull << 30; *(int *)(p + 308) = 32; *(int *)(p + 320) = 1024;"
     " *(int *)(p + 360) = 8; return 0; }}"),
    ("cudaMemGetInfo", "int {0}(size_t *free, size_t *all) {{ *free = 7ull << 30; *all = 8ull << 30; return 0; }}"),
    ("cudaMalloc|cudaHostAlloc", "int {0}(void **p, size_t bytes) {{ *p = memory(bytes); return 0; }}"),
    ("cudaFree|cudaFreeHost", "int {0}(void *p) {{ free(p); return 0; }}"),
    ("cudaMemcpy|cudaMemcpyAsync", "int {0}(void *to, void *from, size_t bytes, int kind) {{"
     " if (kind == 1) SAY(\"to the device %zu\\n\", bytes); memcpy(to, from, bytes); return 0; }}"),
    ("cudaMemset|cudaMemsetAsync", "int {0}(void *p, int v, size_t bytes) {{ memset(p, v, bytes); return 0; }}"),
    (r"\w+Create\w*", "int {0}(void **handle) {{ *handle = memory(512); return 0; }}"),
    (r"\w+Get(ErrorString|ErrorName)", "const char *{0}(int code) {{ return \"stand-in\"; }}"),
    # handle, four descriptors, number requested, number returned, cudnnConvolution*AlgoPerf_t
    (r"cudnn(Find|Get)Convolution\w+Algorithm\w*", "int {0}(void *h, void *a, void *b, void *c, void *d, int asked,"
     " int *given, int *perf) {{ SAY(\"{0}\\n\"); memset(perf, 0, 40); *perf = 1; *given = 1; return 0; }}"),
    ("cudnnGet(Tensor|Filter)SizeInBytes", "int {0}(void *a, size_t *size) {{ *size = 256; return 0; }}"),
    (r"cudnnGetConvolution\w+WorkspaceSize",
     "int {0}(void *h, void *a, void *b, void *c, void *d, int algorithm, size_t *size) {{ *size = 256; return 0; }}"),
    ("cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize", "int {0}(void *h, int mode, int ops, void *x, void *z,"
     " void *y, void *s, void *a, size_t *size) {{ SAY(\"forward %d %d\\n\", mode, ops); *size = 256; return 0; }}"),
    ("cudnnGetBatchNormalizationBackwardExWorkspaceSize", "int {0}(void *h, int mode, int ops, void *x, void *y,"
     " void *dy, void *dz, void *dx, void *s, void *a, size_t *size)"
     " {{ SAY(\"backward %d %d\\n\", mode, ops); *size = 256; return 0; }}"),
    ("cudnnGetBatchNormalizationTrainingExReserveSpaceSize",
     "int {0}(void *h, int mode, int ops, void *a, void *x, size_t *size) {{ *size = 256; return 0; }}"),
)  # fmt: skip


def _definition(name: str) -> str:
    for pattern, text in _FUNCTIONS:
        if re.fullmatch(pattern, name):
            return text.format(name)
    return f"int {name}(void) {{ return 0; }}"


def _asked_for() -> dict[str, set[str]]:
    """Functions by library that MindSpore's plug-in and its kernels need and do not define."""
    (folder,) = nvidia._folders("mindspore")
    names = [name for _, _, libraries in nvidia.LIBRARIES for name in libraries]
    found: dict[str, set[str]] = defaultdict(set)
    for file in (nvidia.PLUGIN, "lib/plugin/gpu/libcuda_ops.so.11"):
        command = ["nm", "-D", "--undefined-only", str(folder / file)]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for function in re.findall(r" U ((?:cud|cub|cuf|cur|cus|nvrtc)[a-zA-Z]+\w*)", listed):
            prefix = re.match(r"cudnn|cuda|nvrtc|[a-z]+", function)[0].replace("cuda", "cudart")
            found[next(name for name in names if name.startswith(f"lib{prefix}.so"))].add(function)
    return found


def make_cuda(site: Path) -> None:
    """Write every library of `nvidia.LIBRARIES` where NVIDIA's wheels would put it."""
    functions = _asked_for()
    for _, folder, names in nvidia.LIBRARIES:
        for name in names:
            source = _COMMON + "\n".join(map(_definition, sorted(functions[name])))
            compile_library(source, site / "nvidia" / folder / "lib" / name, version=name if functions[name] else "")
    (site / "nvidia" / "__init__.py").touch()
