"""Protocols take the clips that their authors' programs take, and find them among the stored frames."""

import json

import pytest
from paths import ROOT

from train.evaluation.protocols import PROTOCOLS, source_frames

CASES = json.loads((ROOT / "tests/resources/torchvision_clip_indices.json").read_text())


@pytest.mark.parametrize("protocol", ["torchvision-clip", "torchvision-video"])
def test_clips_are_torchvisions_in_all_160_cases(protocol):
    assert len(CASES) == 160
    for case in CASES:
        options = {key: case[key] for key in ("clip_len", "num_clips")}
        clips = source_frames(protocol, case["source_frames"], case["source_fps"], **options)
        assert clips == case["source_frame_of_clips"], case


@pytest.mark.parametrize(("frames", "fps", "last"), [(1600, 24000 / 1001, 1596), (91, 27.3, 89), (83, 8.3, 82)])
def test_frames_are_counted_in_torchvisions_order(frames, fps, last):
    assert source_frames("torchvision-video", frames, fps)[-1][-1] == last  # as torchvision 0.29 gives them


def test_vmz_spreads_ten_clips_and_loops_short_videos():
    starts = [clip[0] for clip in source_frames("vmz", 100, 15, num_clips=10)]
    assert starts == [i * (100 - 16) // 9 for i in range(10)]
    assert source_frames("vmz", 10, 15, num_clips=1) == [[*range(10), *range(6)]]


def test_clips_of_stored_frames_have_no_source_frames():
    with pytest.raises(ValueError, match="got one-clip"):
        source_frames("one-clip", 100, 15)
    assert {name for name, each in PROTOCOLS.items() if each.stored} == {"vmz-pt"}


def test_protocols_average_and_count_as_their_authors():
    assert {name: (each.num_clips, each.num_crops, each.average, each.level) for name, each in PROTOCOLS.items()} == {
        "torchvision-clip": (5, 1, "softmax", "clip"), "torchvision-video": (5, 1, "softmax", "video"),
        "vmz": (10, 1, "softmax", "video"), "vmz-pt": (10, 1, "logits", "video"), "zjut": (5, 1, "softmax", "clip"),
        "views-10x3": (10, 3, "softmax", "video"), "one-clip": (1, 1, "softmax", "video"),
    }  # fmt: skip
    shown = {name: PROTOCOLS[f"torchvision-{name}"].published["R2Plus1d18"] for name in ("clip", "video")}
    assert shown == {"clip": (57.50, 78.81), "video": (67.463, 86.175)}
