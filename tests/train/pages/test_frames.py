"""The frames that a report shows: those of the shards, the crop of evaluation, upright and of the right aspect."""

from dataclasses import replace

import av
import numpy as np
import pytest
from make_store import frames_of, make_split, settings_for
from PIL import Image

from train.data.views import Views
from train.experiment.sections import Dataset, Loader
from train.experiment.transforms import standard_map
from train.pages.blocks import Note
from train.pages.frames import open_frames, sheet_of, shown, shown_size, write_jpeg, write_mp4


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    settings = settings_for(tmp_path_factory.mktemp("frames"))
    make_split(settings, "train", 6)
    return settings


def test_frames_are_those_of_the_shard(settings):
    stored, unread = open_frames(settings, "train"), []
    number = stored.number_of("train000003_000003_000013")
    whole = stored.take(number, [2, 0, 5], unread=unread)
    assert (whole == frames_of(3, 15, settings)[[2, 0, 5]]).all()
    cut = stored.take(number, [2, 4], (1, 3), (8, 10), flip=True, unread=unread)
    assert (cut == frames_of(3, 15, settings)[[2, 4], 1:9, 3:13][:, :, ::-1]).all()
    assert unread == [] and stored.number_of("unknown") is None


def test_what_cannot_be_read_is_a_sentence(settings, tmp_path):
    stored, unread = open_frames(settings, "train"), []
    assert stored.take(0, [99], unread=unread) is None and "expected" in unread[0]
    other = replace(settings, fps=7.0)
    assert open_frames(other, "train").take(0, [0], unread=unread) is None and "another recipe" in unread[1]
    assert isinstance(open_frames(settings, "val"), Note)


@pytest.mark.parametrize("size", [(16, 20), (64, 86), (128, 171), (171, 128), (256, 340), (1080, 1920), (1, 1)])
def test_shown_size_keeps_the_aspect(size):
    height, width = shown_size(size)
    assert 96 <= height <= 192 and abs(width - height * size[1] / size[0]) <= 1


@pytest.mark.parametrize("source", [(1920, 1080), (720, 1280), (340, 256), (1, 1), (2, 4000), (4000, 2)])
def test_shown_size_is_of_the_shape_of_the_source(source):
    height, width = shown_size((128, 171), source)
    assert (
        1 <= height <= 192
        and 1 <= width <= 3 * 192
        and abs(width - height * source[1] / source[0]) <= max(1, source[1] / source[0])
    )


def test_outside_of_the_crop_is_darker():
    frames = np.full((2, 128, 171, 3), 200, np.uint8)
    pictures = shown(frames, (8, 29, 112, 112))
    assert pictures.shape == frames.shape
    assert (pictures[:, 9:119, 30:140] == 200).all() and (pictures[:, :8] == 90).all()
    assert (pictures[:, 8, 29:141] == (255, 214, 64)).all() and (pictures[:, :, 141:] == 90).all()
    assert (shown(frames, (0, 0, 128, 171)) == 200).all()  # the whole frame is seen: no line


def test_crop_of_evaluation_is_in_the_middle(settings):
    loader = Loader(Dataset(split="val", seq=4, seq_mode="uniform", shuffle=False),
                    standard_map((16, 20), "centre", (16, 16)))  # fmt: skip
    stored = open_frames(settings, "train")
    views = Views(loader, settings.frame_size, 0, settings.fps)
    cuts = views.cuts(np.arange(2), stored.videos.timeline.of(np.arange(2)))
    assert cuts.left.tolist() == [2, 2] and cuts.top.tolist() == [0, 0]


def test_sheet_keeps_every_picture_in_its_place(tmp_path):
    pictures = [np.full((10, 20, 3), value, np.uint8) for value in (10, 90, 250)]
    sheet = sheet_of([pictures[:2], pictures[2:]])
    assert sheet.shape == (24, 44, 3)
    assert (sheet[:10, :20] == 10).all() and (sheet[:10, 24:] == 90).all() and (sheet[14:, :20] == 250).all()
    assert (sheet[14:, 24:] == 128).all()
    mixed = sheet_of([[pictures[0], pictures[1][:, :10]], [pictures[2][:4]]])
    assert (mixed[:10, 29:39] == 90).all() and (mixed[17:21, :20] == 250).all()
    assert (mixed != 128).any(2).sum() == 200 + 100 + 80
    write_jpeg(tmp_path / "a.jpg", sheet)
    assert np.abs(np.asarray(Image.open(tmp_path / "a.jpg")).astype(int)[2:8, 4:16] - 10).max() <= 4


@pytest.mark.parametrize("size", [(64, 86), (97, 171)])
def test_mp4_plays_at_its_speed_upright(size, tmp_path):
    frames = np.zeros((30, *size, 3), np.uint8)
    frames[:, : size[0] // 2] = (250, 20, 20)  # red above
    write_mp4(tmp_path / "a.mp4", frames, 15.0)
    with av.open(str(tmp_path / "a.mp4")) as video:
        stream = video.streams.video[0]
        decoded = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert abs(float(video.duration) / av.time_base - 2) < 0.1 and float(stream.average_rate) == 15
    assert len(decoded) == 30 and decoded[0].shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    assert decoded[5][2, 2, 0] > 200 and decoded[5][2, 2, 2] < 80 and decoded[5][-4, 2, 0] < 40
