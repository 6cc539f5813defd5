"""A video is opened once and checked, and decoders read that file whatever its path names later."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from make_videos import read_number, write_mp4

from pipeline.common.recipe import Preprocess
from pipeline.decoding import decode, video_file
from pipeline.decoding.decode import decode_video
from pipeline.decoding.process import Decoder
from pipeline.decoding.video_file import DecodeError, ReadError, open_video

SOURCE = Preprocess(fps="source", height=64, width=96)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data_root with a video, beside a secret outside of it."""
    write_mp4(tmp_path / "data/train/a.mp4", 5)
    write_mp4(tmp_path / "secret/a.mp4", 5, first=100)
    return tmp_path / "data"


def first_number(path: Path, root: Path) -> int:
    """The number on the first frame, decoded as from a data_root."""
    return read_number(decode_video(path, replace(SOURCE, data_root=str(root))).frames[0])


def why_not_opened(path: Path, root: Path) -> str:
    """The words with which a video is refused."""
    with pytest.raises(DecodeError) as caught:
        first_number(path, root)
    return str(caught.value)


def test_link_out_of_data_root_is_not_decoded(root: Path) -> None:
    video = root / "train/a.mp4"
    video.unlink()
    video.symlink_to(root.parent / "secret/a.mp4")
    assert why_not_opened(video, root) == "io: symlink out of data_root"
    with Decoder(replace(SOURCE, data_root=str(root))) as decoder:
        (result,) = decoder.decode([video])
    assert (result.status, result.reason, result.encoded) == ("io", "symlink out of data_root", None)
    assert read_number(decode_video(video, SOURCE).frames[0]) == 100, "without a data_root any file may be given"


def test_folder_that_became_a_link_is_not_followed(root: Path) -> None:
    (root / "train").rename(root / "old")
    (root / "train").symlink_to(root.parent / "secret")
    assert why_not_opened(root / "train/a.mp4", root) == "io: symlink out of data_root"
    assert why_not_opened(root / "../secret/a.mp4", root) == "io: symlink out of data_root"
    (root.parent / "data2").mkdir()
    assert why_not_opened(write_mp4(root.parent / "data2/a.mp4", 5), root) == "io: symlink out of data_root"


def test_links_inside_and_to_data_root_are_followed(root: Path) -> None:
    (root / "link.mp4").symlink_to(root / "train/a.mp4")
    (root / "folder").symlink_to("train")
    (root.parent / "other").symlink_to(root)
    assert first_number(root / "link.mp4", root) == first_number(root / "folder/a.mp4", root) == 0
    assert first_number(root.parent / "other/train/a.mp4", root.parent / "other") == 0


@pytest.mark.parametrize("with_decord", [True, False])
def test_file_that_was_checked_is_the_one_decoded(
    root: Path, monkeypatch: pytest.MonkeyPatch, with_decord: bool
) -> None:
    video, honest = root / "train/a.mp4", decode.decode_with_decord

    def swapped(*arguments: object) -> object:
        if not video.is_symlink():
            video.rename(root / "train/b.mp4")
            video.symlink_to(root.parent / "secret/a.mp4")
        return honest(*arguments) if with_decord else None

    monkeypatch.setattr(decode, "decode_with_decord", swapped)
    assert first_number(video, root) == 0
    assert why_not_opened(video, root) == "io: symlink out of data_root"


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOMEM, errno.EMFILE])
def test_error_of_the_machine_is_no_bad_video(root: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    video = root / "train/a.mp4"

    def fail(*_arguments: object) -> bytes:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(video_file.os, "open", fail)
        with pytest.raises(ReadError, match=os.strerror(number)):
            open_video(video)
    monkeypatch.setattr(video_file.os, "pread", fail)
    with pytest.raises(ReadError, match=os.strerror(number)):
        first_number(video, root)


def test_error_that_ffmpeg_hides_is_seen(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = write_mp4(root / "a.avi", 60, codec="mpeg4")
    honest, size = os.pread, video.stat().st_size

    def fail_in_the_middle(fd: int, nbytes: int, offset: int) -> bytes:
        if offset + nbytes > size // 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return honest(fd, nbytes, offset)

    monkeypatch.setattr(video_file.os, "pread", fail_in_the_middle)
    with pytest.raises(ReadError, match="Input/output error"):
        first_number(video, root)


def test_large_file_is_judged_without_a_copy(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "decode_with_decord", lambda *_arguments: None)
    monkeypatch.setattr(video_file, "_COPIED_BYTES", 100)
    monkeypatch.setattr(video_file.os, "memfd_create", None)
    assert first_number(root / "train/a.mp4", root) == 0


def test_reading_leaves_no_file_open(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (root / "bad.mp4").write_bytes(b"no video")
    assert first_number(root / "train/a.mp4", root) == 0
    assert why_not_opened(root / "bad.mp4", root).startswith("unreadable")
    assert why_not_opened(root / "absent.mp4", root) == "io: No such file or directory"
    assert len(os.listdir("/proc/self/fd")) == before
