"""The format of a shard: frames of some tens of videos in one HDF5 file, and the outcome of every planned video.

writer.py writes a shard, reader.py reads its frames, store.py its outcomes, structure.py compares file and index.

    <store>/<split>-00012-of-00480.h5
      attributes        format_version, recipe (JSON), recipe_sha256, split, complete
      frames/<video_id> one contiguous uint8 dataset: (T, height, width, 3) RGB, or with codec jpeg T JPEGs end to end
      jpeg/<video_id>   (T + 1,) int64: where each JPEG begins in that blob
      index             table of the stored videos: video_id, num_frames, offset in the file, nbytes, crc32,
                        and with codec jpeg the offset of jpeg/<video_id> (raw: 0)
      times_s           (sum of T,) float32: when each frame is shown, in seconds since its video's first frame;
                        the videos in the order of `index`, which has the offset of each; a video whose own times do
                        not rise has the times of its mean rate
      outcomes          table of every planned video: video_id, status, reason and the facts of the source; a field of
                        `outcome.LATER_FIELDS` only if some video has a value of it
      (after HDF5's)    the seal, a CRC-32 of everything but the frames: checksum.py

Labels are in the ledgers only: when label files change, terabytes of frames need not be written again.

Frames are contiguous and unfiltered, so a reader takes their byte offsets from `index` and maps the file.  No reader
uses libhdf5 (hdf5_file.py); any HDF5 tool can still open the file.  Same inputs and recipe, same bytes.
"""

from __future__ import annotations

from pipeline.common.outcome import OUTCOME_TYPES

# Types of the attributes, and of the tables' columns.
ATTRIBUTES: dict[str, type] = {
    "format_version": int, "recipe": str, "recipe_sha256": str, "split": str, "complete": bool,
}  # fmt: skip
OUTCOME_FIELDS = {name: {str: "text", int: "<i8", float: "<f8"}[kind] for name, kind in OUTCOME_TYPES.items()}
INDEX_FIELDS = {
    "video_id": "text", "num_frames": "<i8", "offset": "<i8", "nbytes": "<i8", "crc32": "<u4",
    "starts": "<i8", "times_s": "<i8",
}  # fmt: skip


def shard_name(split: str, number: int, count: int) -> str:
    """`train-00012-of-00480.h5`."""
    return f"{split}-{number:05d}-of-{count:05d}.h5"
