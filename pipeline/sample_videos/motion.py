"""Draws the clips of the sample dataset: eight classes that differ only in motion.

Classes form pairs: one is the other played backwards.  The start of a motion is uniform over its period, so a single
frame looks the same in all eight classes, anywhere in the video.  Nothing is read or written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

# label -> (what changes, direction of time: +1 or -1); the second of a pair is the first played backwards
CLASSES: dict[str, tuple[str, int]] = {
    "moving left": ("x", 1),
    "moving right": ("x", -1),
    "moving up": ("y", 1),
    "moving down": ("y", -1),
    "rotating clockwise": ("angle", -1),
    "rotating counterclockwise": ("angle", 1),
    "growing": ("octave", -1),
    "shrinking": ("octave", 1),
}

# Slowest and fastest change per second.  At 15 frames/s: 2-4.7 % of a 4:3 frame's width, 2.7-6 degrees,
# 2.5-5 % of size.  A faster texture could move half its period between two frames and seem to move backwards.
_PACE = {
    "x": (0.30 * 340, 0.70 * 340),
    "y": (0.30 * 340, 0.70 * 340),
    "angle": (math.radians(40), math.radians(90)),
    "octave": (15 * math.log2(1.025), 15 * math.log2(1.05)),
}
_TILE = 256  # side of a texture's period; a frame's short side spans 255 of these units before zoom
_DRAFT = 96  # pixels of the short side when drawn; textures have no finer details, so frames are enlarged from it


@dataclass(frozen=True)
class Motion:
    """What a clip shows, apart from its class: the same values can be drawn as any class.

    Attributes:
        texture_seed: seed of the two layers of texture.
        colours: three RGB colours, dark to light; the texture's values are interpolated between them.
        pivot: the centre of zoom and rotation, as (x, y) fractions of the frame.
        origins: for each layer, the point (x, y) of the tile that is at the pivot at first.
        angle: orientation at first, radians.
        octave: zoom at first, 0..2; the picture repeats after two octaves.
        pace: 0..1, from the slowest to the fastest change.
    """

    texture_seed: int
    colours: tuple[tuple[int, int, int], ...]
    pivot: tuple[float, float]
    origins: tuple[tuple[float, float], tuple[float, float]]
    angle: float
    octave: float
    pace: float


def draw_motion(rng: np.random.Generator) -> Motion:
    """Random parameters of one clip; the start of its motion is uniform over the period."""
    dark, light = rng.uniform(0, 60, 3), rng.uniform(195, 255, 3)  # any hue, never a pale picture
    colours = dark, dark + (light - dark) * rng.uniform(0.3, 0.7, 3), light
    return Motion(
        texture_seed=int(rng.integers(2**32)),
        colours=tuple(tuple(int(value) for value in colour) for colour in colours),  # type: ignore[misc]
        pivot=(float(rng.uniform(0.35, 0.65)), float(rng.uniform(0.35, 0.65))),
        origins=tuple(tuple(rng.uniform(0, _TILE, 2).tolist()) for _ in range(2)),  # type: ignore[arg-type]
        angle=float(rng.uniform(0, 2 * math.pi)),
        octave=float(rng.uniform(0, 2)),
        pace=float(rng.uniform()),
    )


def texture(rng: np.random.Generator) -> NDArray[np.uint8]:
    """A periodic texture: noise of a random roughness, unchanged, as blobs, or mixed with a checkerboard.

    There are no stripes: in a small window their motion has no clear direction.

    Returns:
        (256, 256) uint8, mean near 128.
    """
    freq = np.fft.fftfreq(_TILE, 1 / _TILE)
    radius = np.hypot(freq[:, None], freq[None, : _TILE // 2 + 1])
    # At most 6 periods per tile: large enough to follow between frames of 64 lines.
    smooth = np.maximum(radius, 1) ** -rng.uniform(0.5, 1.5)
    band = np.where((radius >= 1) & (radius <= 6), smooth, 0.0)
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((_TILE, _TILE))) * band, s=(_TILE, _TILE))
    field /= field.std()
    kind = rng.choice(["noise", "blobs", "checkerboard"])
    if kind == "blobs":
        field = np.tanh(3 * field)
    elif kind == "checkerboard":
        turns = 2 * np.pi * np.arange(_TILE) / _TILE
        along, across = (np.sin(rng.integers(1, 4) * turns) for _ in range(2))
        field = 0.8 * field + 0.85 * np.tanh(2 * math.sqrt(2) * np.outer(across, along))
    return np.clip(128 + 52 * field, 0, 255).astype(np.uint8)


def motion_frames(label: str, motion: Motion, num_frames: int, size: tuple[int, int], fps: float) -> NDArray[np.uint8]:
    """Draw a clip in which the whole frame moves as `label` says.

    Two layers of texture are zoomed one octave apart, and each fades out before it has doubled or halved: an endless
    zoom, which can start anywhere and last for any time.

    Args:
        label: one of `CLASSES`.
        motion: everything else that decides the clip.
        num_frames: number of frames T.
        size: (H, W) in pixels.
        fps: frames per second; motion is per second, so more frames per second differ less.

    Returns:
        (T, H, W, 3) uint8 RGB.  The second class of a pair is exactly the first reversed in T.
    """
    what, direction = CLASSES[label]
    slowest, fastest = _PACE[what]
    travel = np.arange(num_frames)[::direction] * (slowest + motion.pace * (fastest - slowest)) / fps
    height, width = size
    shrink = min(1.0, _DRAFT / min(size))
    draft = round(height * shrink), round(width * shrink)
    layers = _layers(motion.texture_seed, draft)
    colours = _colour_table(motion.colours)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for frame, moved in zip(frames, travel, strict=True):
        pose = {"x": 0.0, "y": 0.0, "angle": motion.angle, "octave": motion.octave}
        pose[what] += moved
        picture = cv2.applyColorMap(_draw(layers, motion, draft, **pose), colours)
        cv2.resize(picture, (width, height), dst=frame, interpolation=cv2.INTER_LINEAR)
    return frames


def _layers(seed: int, size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """The two textures, repeated around one tile so that no frame of this (H, W) reaches an edge."""
    rng = np.random.default_rng(seed)
    reach = math.ceil(2 * 0.65 * math.hypot(*size) * 255 / min(size)) + 2  # zoom 2, pivot at most 0.65 off a corner
    return [np.pad(texture(rng), reach, mode="wrap") for _ in range(2)]


def _draw(
    layers: list[NDArray[np.uint8]],
    motion: Motion,
    size: tuple[int, int],
    *,
    x: float,
    y: float,
    angle: float,
    octave: float,
) -> NDArray[np.uint8]:
    """One grey frame (H, W) uint8 at a pose: shift in units of the tile, angle in radians, zoom in octaves."""
    height, width = size
    unit = 255 / min(size)
    pivot = np.array([motion.pivot[0] * width, motion.pivot[1] * height])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    images, weights = [], []
    for index, (layer, origin) in enumerate(zip(layers, motion.origins, strict=True)):
        zoom = (octave + index) % 2 - 1  # -1..1
        matrix = 2.0**zoom * turn
        reach = (layer.shape[0] - _TILE) // 2
        start = np.mod(np.array(origin) + matrix @ np.array([x, y]), _TILE) + reach
        linear = matrix * unit
        inverse = np.column_stack([linear, start - linear @ pivot])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        images.append(cv2.warpAffine(layer, inverse, (width, height), flags=flags))
        weights.append(math.cos(math.pi / 2 * zoom))  # their squares sum to 1, so contrast does not depend on zoom
    grey = cv2.addWeighted(images[0], weights[0], images[1], weights[1], 128 * (1 - sum(weights)))
    return np.asarray(grey, np.uint8)


def _colour_table(colours: Sequence[Sequence[int]]) -> NDArray[np.uint8]:
    """(256, 1, 3) uint8 for `cv2.applyColorMap`, interpolated between the colours."""
    stops = np.linspace(40, 215, len(colours))  # textures rarely reach the ends of the range
    channels = [np.interp(np.arange(256), stops, channel) for channel in zip(*colours, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)[:, None, :]
