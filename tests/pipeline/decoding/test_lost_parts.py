"""Lost parts of a video are named; of one whose header claims too much every frame is stored once."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import av
import pytest
from make_videos import read_number, write_mp4
from paths import RESOURCES

from pipeline.common.recipe import Preprocess
from pipeline.decoding.decode import decode_video
from pipeline.decoding.video_file import DecodeError

SOURCE = Preprocess(fps="source", height=64, width=96)
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
INDEXED = {"movflags": "frag_keyframe+empty_moov+dash+global_sidx"}
SIX = {"g": "6", "bf": "0", "sc_threshold": "0"}  # frames of a fragment
pytestmark = pytest.mark.usefixtures("either_decoder")


def shown_in(path: Path, fps: float | str = "source") -> list[int]:
    """The numbers on the stored frames; at the source's rate these are all frames of the source."""
    video = decode_video(path, replace(SOURCE, fps=fps))
    assert fps != "source" or video.source.source_frames == len(video.frames)
    return [read_number(frame) for frame in video.frames]


def bad(path: Path) -> str:
    """Status and reason of a video that is not stored."""
    with pytest.raises(DecodeError) as caught:
        decode_video(path, SOURCE)
    return str(caught.value)


def patch_file(path: Path, change: Callable[[bytearray], bytes | bytearray | None]) -> Path:
    """Change the bytes of a file in place, or replace them by those returned."""
    content = bytearray(path.read_bytes())
    path.write_bytes(change(content) or content)
    return path


def boxes(content: bytes, start: int = 0, end: int | None = None) -> list[tuple[bytes, int, int]]:
    """Kind, start and end of each box of an mp4, or of those in a box."""
    place, parts = start, []
    while place < (len(content) if end is None else end):
        length = int.from_bytes(content[place : place + 4], "big")
        parts.append((bytes(content[place + 4 : place + 8]), place, place + length))
        place += length
    return parts


def remux(source: Path, target: Path, packets: Callable[[list[av.Packet]], Iterable[av.Packet]]) -> Path:
    """Write packets of the video in `source`, changed by a function, into `target`."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for packet in packets([packet for packet in old.demux(stream) if packet.size]):
            packet.stream, packet.time_base = copy, stream.time_base
            new.mux(packet)
    return target


def test_packed_b_frames_are_each_stored_once() -> None:
    path = RESOURCES / "packed_b_frames.avi"  # a packet with two pictures, then one with none, ten times and once more
    assert shown_in(path) == list(range(24))
    assert shown_in(path, 15.0) == list(range(0, 24, 2))


def test_leading_pictures_of_a_cut_are_not_copies(tmp_path: Path) -> None:
    options = {"x265-params": "log-level=none:open-gop=1:keyint=10:min-keyint=10:bframes=3:scenecut=0:b-adapt=0"}
    whole = write_mp4(tmp_path / "whole.mp4", 40, codec="hevc", options=options)

    def from_second_key(packets: list[av.Packet]) -> list[av.Packet]:
        return packets[[number for number, packet in enumerate(packets) if packet.is_keyframe][1] :]

    cut = remux(whole, tmp_path / "cut.mkv", from_second_key)
    with av.open(str(cut)) as container:
        kept = sum(packet.size > 0 for packet in container.demux(video=0))
    stored = shown_in(cut)
    assert stored == list(range(stored[0], 40)) and 1 <= kept - len(stored) <= 3
    assert shown_in(cut, 10.0) == stored[::3]


UNITS = {
    "h264": {
        "end": b"\0\0\0\1\x0a", "delimiter": b"\0\0\0\2\x09\xf0",
        "message": b"\0\0\0\5\x06\5\1\xaa\x80", "padding": b"\0\0\0\4\x0c\xff\xff\x80",
    },
    "hevc": {
        "end": b"\0\0\0\2\x48\1", "delimiter": b"\0\0\0\3\x46\1\x50",
        "message": b"\0\0\0\6\x4e\1\5\1\xaa\x80", "padding": b"\0\0\0\4\x4c\1\xff\x80",
    },
}  # fmt: skip
FAST = {("h264", "message", 20), ("h264", "end", 20), ("h264", "delimiter", 0), ("hevc", "message", 7)}
CASES = [
    pytest.param(*case, marks=[] if case in FAST else pytest.mark.slow)
    for case in [(codec, unit, place) for codec, units in UNITS.items() for unit in units for place in (0, 7, 20)]
]


def insert_packet(path: Path, content: bytes, place: int) -> Path:
    """Insert a packet before number `place` of the 20 of a video; later ones are shown one frame later."""

    def with_one_more(packets: list[av.Packet]) -> list[av.Packet]:
        step = packets[0].duration
        extra = av.Packet(content)
        shown = sorted(packet.pts for packet in packets)
        extra.dts = packets[place].dts if place < 20 else packets[-1].dts + step
        extra.pts = max(extra.dts, shown[min(place, 19)] + (step if place == 20 else 0))
        for packet in packets[place:]:
            packet.dts, packet.pts = packet.dts + step, packet.pts + step
        return [*packets[:place], extra, *packets[place:]]

    return remux(path, path.with_suffix(".mkv"), with_one_more)


@pytest.mark.parametrize(("codec", "unit", "place"), CASES)
def test_packet_without_a_picture_is_no_frame(tmp_path: Path, codec: str, unit: str, place: int) -> None:
    path = write_mp4(tmp_path / "a.mp4", 20, codec=codec)
    assert shown_in(insert_packet(path, UNITS[codec][unit], place)) == list(range(20))


def test_packet_whose_picture_is_damaged_is_a_loss(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", 20)
    assert bad(insert_packet(path, b"\0\0\0\x09\x06\5\1\xaa\x80", 20)).startswith("truncated")


def with_empty_chunks(content: bytearray, empty: set[int]) -> bytes:
    """Put empty chunks into an AVI file, so that those of `empty` of all its chunks are empty."""
    movi, idx1 = content.index(b"movi"), content.index(b"idx1", content.index(b"movi"))
    chunks, place = [], movi + 4
    while place < idx1:
        length = int.from_bytes(content[place + 4 : place + 8], "little")
        chunks.append(bytes(content[place : place + 8 + length + length % 2]))
        place += len(chunks[-1])
    old = iter(chunks)
    chunks = [b"00dc" + bytes(4) if number in empty else next(old) for number in range(len(chunks) + len(empty))]
    offset, entries = 4, b""
    for chunk in chunks:
        entries += b"00dc" + (16).to_bytes(4, "little") + offset.to_bytes(4, "little") + chunk[4:8]
        offset += len(chunk)
    head = content[: movi - 4] + offset.to_bytes(4, "little") + b"movi"
    for name, at in ((b"strh", 8 + 32), (b"avih", 8 + 16)):
        place = head.index(name) + at
        head[place : place + 4] = len(chunks).to_bytes(4, "little")
    whole = head + b"".join(chunks) + b"idx1" + len(entries).to_bytes(4, "little") + entries
    whole[4:8] = (len(whole) - 8).to_bytes(4, "little")
    return bytes(whole)


@pytest.mark.parametrize("empty", [{5, 6, 7, 13}, {14, 15, 16}, {0, 15}])
def test_empty_chunks_repeat_a_frame_and_are_none(tmp_path: Path, empty: set[int]) -> None:
    path = write_mp4(tmp_path / "a.avi", 14, 30, codec="mpeg4")
    patch_file(path, lambda content: with_empty_chunks(content, empty))
    assert shown_in(path) == list(range(14))
    if empty == {5, 6, 7, 13}:
        places = [number for number in range(18) if number not in empty]
        shown = [max(i for i, place in enumerate(places) if place <= 2 * k) for k in range(9)]
        assert shown_in(path, 15.0) == shown


def claim_more(content: bytearray, nbytes: int = 8) -> None:
    """Let the header of an AVI or Matroska file claim that it is longer."""
    if content[:4] == b"RIFF":
        content[4:8] = (int.from_bytes(content[4:8], "little") + nbytes).to_bytes(4, "little")
        return
    place = content.index(bytes.fromhex("18538067")) + 4
    assert content[place] == 1, "a length of eight bytes"
    claim = int.from_bytes(content[place + 1 : place + 8], "big") + nbytes
    content[place + 1 : place + 8] = claim.to_bytes(7, "big")


@pytest.mark.parametrize("name", ["a.avi", "a.mkv", "a.webm"])
def test_length_that_is_claimed_too_large_is_no_loss(tmp_path: Path, name: str) -> None:
    codec = {"a.avi": "mpeg4", "a.mkv": "h264", "a.webm": "vp8"}[name]
    path = patch_file(write_mp4(tmp_path / name, 20, codec=codec), claim_more)
    assert shown_in(path) == list(range(20))


@pytest.mark.parametrize("options", [FRAGMENTED, INDEXED, {"movflags": "frag_keyframe"}])
@pytest.mark.parametrize("pts", [None, [0, 1, 2, 3, 9, 20, 21, 22, 30, 31, 50, 51]])
def test_whole_fragmented_file_is_stored(tmp_path: Path, options: dict[str, str], pts: list[int] | None) -> None:
    path = write_mp4(tmp_path / "a.mp4", 12, pts=pts, container_options=options, options={"g": "4"})
    assert shown_in(path) == list(range(12))


def without_fragment(content: bytearray, number: int) -> bytes:
    """Remove the fragment `number`, or all from it on if it is negative."""
    starts = [start for kind, start, _ in boxes(content) if kind == b"moof"]
    ends = [end for kind, _, end in boxes(content) if kind == b"mdat"]
    return bytes(content[: starts[abs(number)]] + (content[ends[number] :] if number >= 0 else b""))


def test_fragments_lost_at_the_end_are_named(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", 24, container_options=INDEXED, options=SIX)
    assert shown_in(path) == list(range(24))
    assert bad(patch_file(path, lambda content: without_fragment(content, -2))).startswith("truncated: file has ")


def test_fragment_lost_in_the_middle_is_named(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", 24, container_options=FRAGMENTED, options=SIX)
    assert shown_in(path) == list(range(24))
    patch_file(path, lambda content: without_fragment(content, 2))
    assert bad(path) == "truncated: 0.2 s are missing after packet 12"


def test_fragments_of_a_live_stream_begin_late(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", 24, container_options=FRAGMENTED, options=SIX)
    patch_file(path, lambda content: without_fragment(content, 0))
    assert shown_in(path) == list(range(6, 24))


def declare_seconds(content: bytearray, milliseconds: int) -> bytes:
    """Add the header that says how long all fragments are."""
    moov = next(start for kind, start, _ in boxes(content) if kind == b"moov")
    mvex = content.index(b"mvex") - 4
    for place in (moov, mvex):
        content[place : place + 4] = (int.from_bytes(content[place : place + 4], "big") + 16).to_bytes(4, "big")
    mehd = (16).to_bytes(4, "big") + b"mehd" + bytes(4) + milliseconds.to_bytes(4, "big")
    return bytes(content[: mvex + 8] + mehd + content[mvex + 8 :])


def test_declared_length_of_all_fragments_is_compared(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", 24, container_options=FRAGMENTED, options=SIX)
    patch_file(path, lambda content: declare_seconds(content, 800))
    assert shown_in(path) == list(range(24))
    assert bad(patch_file(path, lambda content: without_fragment(content, -3))) == "truncated: file has 0.60 of 0.80 s"


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".webm"])
def test_video_that_begins_late_is_not_long(tmp_path: Path, suffix: str) -> None:
    late = range(7200 * 30, 7200 * 30 + 20)
    path = write_mp4(tmp_path / f"a{suffix}", pts=late, num_frames=20, codec="vp8" if suffix == ".webm" else "h264")
    video = decode_video(path, SOURCE)
    assert [read_number(frame) for frame in video.frames] == list(range(20))
    assert video.source.duration_s == pytest.approx(20 / 30, abs=2e-3)
    assert video.times_s == pytest.approx([k / 30 for k in range(20)], abs=2e-3)


def test_late_fragments_are_not_long(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", 24, container_options=FRAGMENTED, options=SIX)

    def two_hours_later(content: bytearray) -> None:
        place = content.find(b"tfdt")
        while place > 0:
            assert content[place + 4] == 1
            time = int.from_bytes(content[place + 8 : place + 16], "big") + 7200 * 15360
            content[place + 8 : place + 16] = time.to_bytes(8, "big")
            place = content.find(b"tfdt", place + 1)

    assert shown_in(patch_file(path, two_hours_later)) == list(range(24))


def test_times_that_are_all_zero_are_those_of_the_rate(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", 20, 30, options={"bf": "0"})

    def no_time(content: bytearray) -> None:
        place = content.index(b"stts") + 8
        assert int.from_bytes(content[place : place + 4], "big") == 1
        content[place + 8 : place + 12] = bytes(4)

    video = decode_video(patch_file(path, no_time), SOURCE)
    assert [read_number(frame) for frame in video.frames] == list(range(20))
    assert (video.fps, video.source.source_fps) == (30.0, 30.0)
    assert video.times_s == pytest.approx([k / 30 for k in range(20)])


def test_encrypted_video_says_so(tmp_path: Path) -> None:
    options = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "0" * 31 + "1", "encryption_kid": "0" * 32}
    path = write_mp4(tmp_path / "a.mp4", 10, container_options=options)
    assert bad(path) == "unreadable: the video is encrypted; no key is known here"


def test_length_in_seconds_is_that_of_the_packets(tmp_path: Path) -> None:
    def two_hours_long(content: bytearray) -> None:
        place = content.index(bytes.fromhex("448988")) + 3
        content[place : place + 8] = struct.pack(">d", 7_200_000.0)

    path = patch_file(write_mp4(tmp_path / "a.mkv", 20), two_hours_long)
    assert shown_in(path) == list(range(20))
    assert bad(patch_file(path, lambda content: content[:-40])).startswith("truncated: ")


def test_sample_without_bytes_is_no_frame(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", 20, options={"bf": "0"})

    def no_bytes(content: bytearray) -> None:
        place = content.index(b"stsz") + 12 + 4 * 20
        assert int.from_bytes(content[place : place + 4], "big")
        content[place : place + 4] = bytes(4)

    assert shown_in(patch_file(path, no_bytes)) == list(range(19))
