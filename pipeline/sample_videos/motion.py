"""Moving pictures for the sample dataset: eight classes that only motion tells apart.

Classes come in pairs, one being the other played backwards, and where a motion starts is uniform over its
period: a frame looks the same in all eight classes, wherever in the video it stands.  Nothing is read or written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

# label -> (what changes, +1 or -1: the direction of time); a pair's second is its first played backwards
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
# 2.5-5 % of size; faster, and a texture could move half its period between two frames and seem to go backwards.
_PACE = {
    "x": (0.30 * 340, 0.70 * 340),
    "y": (0.30 * 340, 0.70 * 340),
    "angle": (math.radians(40), math.radians(90)),
    "octave": (15 * math.log2(1.025), 15 * math.log2(1.05)),
}
_TILE = 256  # side of a texture's period; a frame's short side spans 255 of these units before zoom
_DRAFT = 96  # pixels of the short side that are drawn; textures hold nothing finer, so the rest is enlarged


@dataclass(frozen=True)
class Motion:
    """What a clip shows, apart from its class: the same values may be drawn as any of the eight.

    Attributes:
        texture_seed: decides the two layers of texture.
        colours: three RGB anchors, dark to light, between which the texture's values are coloured.
        pivot: what zoom and rotation leave in place, as (x, y) fractions of the frame.
        origins: (x, y) within the tile that lies on the pivot at first, for each layer.
        angle: orientation at first, radians.
        octave: zoom at first, 0..2; the picture returns to itself after two octaves.
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
    """Parameters of one clip; those that say where the motion starts are uniform over its period."""
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
    """A periodic texture: noise of a random roughness, as it is, as blobs, or mixed with checks.

    No stripes: through a small window the way they go looks the same as the way across them.

    Returns:
        (256, 256) uint8, mean near 128.
    """
    freq = np.fft.fftfreq(_TILE, 1 / _TILE)
    radius = np.hypot(freq[:, None], freq[None, : _TILE // 2 + 1])
    # At most 6 periods a tile: long enough to follow from frame to frame in a frame of 64 lines.
    smooth = np.maximum(radius, 1) ** -rng.uniform(0.5, 1.5)
    band = np.where((radius >= 1) & (radius <= 6), smooth, 0.0)
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((_TILE, _TILE))) * band, s=(_TILE, _TILE))
    field /= field.std()
    kind = rng.choice(["noise", "blobs", "checks"])
    if kind == "blobs":
        field = np.tanh(3 * field)
    elif kind == "checks":
        turns = 2 * np.pi * np.arange(_TILE) / _TILE
        along, across = (np.sin(rng.integers(1, 4) * turns) for _ in range(2))
        field = 0.8 * field + 0.85 * np.tanh(2 * math.sqrt(2) * np.outer(across, along))
    return np.clip(128 + 52 * field, 0, 255).astype(np.uint8)


def motion_frames(label: str, motion: Motion, num_frames: int, size: tuple[int, int], fps: float) -> NDArray[np.uint8]:
    """Draw a clip in which the whole frame moves as `label` says.

    Two layers of texture are zoomed an octave apart, each fading out before it has grown or shrunk twofold
    (an endless zoom), so growing and shrinking can start anywhere and last for ever.

    Args:
        label: one of `CLASSES`.
        motion: everything else that decides the clip.
        num_frames: T.
        size: (H, W) in pixels.
        fps: frames per second; motion is per second, so it decides how far apart frames are.

    Returns:
        (T, H, W, 3) uint8 RGB.  Of two classes of a pair, one is exactly the other reversed in T.
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
    """The two textures, repeated so far around one tile that no frame of this (H, W) reaches an edge."""
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
    """One grey frame (H, W) uint8 at a pose: shift in tile units, radians, octaves."""
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
        weights.append(math.cos(math.pi / 2 * zoom))  # squares sum to 1: contrast does not depend on the zoom
    grey = cv2.addWeighted(images[0], weights[0], images[1], weights[1], 128 * (1 - sum(weights)))
    return np.asarray(grey, np.uint8)


def _colour_table(colours: Sequence[Sequence[int]]) -> NDArray[np.uint8]:
    """(256, 1, 3) uint8 for `cv2.applyColorMap`: from the first colour over the second to the third."""
    stops = np.linspace(40, 215, len(colours))  # textures seldom reach the ends of the range
    channels = [np.interp(np.arange(256), stops, channel) for channel in zip(*colours, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)[:, None, :]
