"""Weights, clips and batches computed from a name and a seed, to compare results with torchvision's."""

# `resources/parity_logits.npz` holds the logits of torchvision's r2plus1d_18 (float32, evaluation mode) for these
# weights and clips, `resources/loss_curve.npz` the losses of 20 of its training steps.

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray


def weight(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """One parameter or buffer by torchvision's name: He-normal kernels, batch norms near 1, small biases."""
    rng = np.random.default_rng([0, zlib.crc32(name.encode())])
    if len(shape) > 1:
        scale = np.sqrt(2.0 / int(np.prod(shape[1:])))
        return (rng.standard_normal(shape) * scale).astype(np.float32)
    if name.endswith((".weight", ".running_var")):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return (rng.standard_normal(shape) * 0.1).astype(np.float32)


def clip(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Normalised clips (N, C, T, H, W)."""
    return np.random.default_rng([0, 7]).standard_normal(shape).astype(np.float32)


def training_batch(step: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Clips (4, 3, 8, 56, 56) and labels (4,) of step `step` of the loss curve.

    The curve starts from `weight` with fc.weight times 0.05 and fc.bias zero; SGD, lr 0.001, momentum 0.9, weight
    decay 1e-4 on every parameter.  loss32 and loss64 are PyTorch's in float32 and float64; they differ by up to
    8e-4 relative.
    """
    rng = np.random.default_rng([0, 100, step])
    clips = rng.standard_normal((4, 3, 8, 56, 56)).astype(np.float32)
    return clips, rng.integers(0, 400, 4).astype(np.int32)
