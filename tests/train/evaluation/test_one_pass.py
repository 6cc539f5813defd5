"""All protocols from one pass give the bits of one at a time, on any number of processes, in eval as in infer."""

from __future__ import annotations

import train as _train  # noqa: F401  before numpy and mindspore

# isort: split
from dataclasses import replace
from itertools import pairwise

import mindspore as ms
import numpy as np
import pytest
from make_store import frames_of, make_split, settings_for
from make_training import TinyNetwork, write_config
from mindspore import Tensor

from pipeline.common.errors import UserError
from pipeline.common.settings import Document
from train.data.timeline import Timeline
from train.evaluation.results import results_of
from train.evaluation.scoring import Evaluation, combine, score
from train.experiment.load import load_config
from train.inference.predict import VideoPredictor
from train.network.normalize import Normalize
from train.network.predictor import Predictor

ALL = ("torchvision-clip", "torchvision-video", "vmz", "zjut", "views-10x3", "one-clip")
NUM_TEST = 7


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Seven videos of 18 to 22 stored frames, one of them missing; batches of 4."""
    folder = tmp_path_factory.mktemp("protocols")
    path = write_config(folder)
    make_split(settings_for(folder), "test", NUM_TEST, bad=(3,), length=18)
    config = load_config(Document(path, {"data_loader.eval.dataset.batch_size": "4"}))
    loader = config.data_loader.eval
    loader = replace(loader, dataset=replace(loader.dataset, split="test"))
    return replace(config, data_loader=replace(config.data_loader, eval=loader))


@pytest.fixture(scope="module")
def predict():
    ms.set_context(mode=ms.PYNATIVE_MODE)
    ms.set_seed(0)
    predictor = Predictor(TinyNetwork(), Normalize((0.4, 0.4, 0.4), (0.2, 0.2, 0.2)))
    predictor.set_train(False)
    return predictor


def source_of(config, *names: str, **options: int) -> Evaluation:
    return Evaluation(replace(config, eval=replace(config.eval, protocols=names)), **options)


def same_result(one, other) -> bool:
    arrays = ("probabilities", "losses", "views")
    equal = [np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True) for name in arrays]
    return one.name == other.name and one.summary == other.summary and all(equal)


def test_one_pass_has_the_bits_of_single_passes(config, predict):
    clips = []

    def counting(batch: Tensor) -> Tensor:
        clips.append(len(batch))
        return predict(batch)

    source = source_of(config, *ALL)
    together = results_of(source, score(counting, source))
    assert [result.name for result in together] == list(ALL)
    in_one = sum(clips)
    clips.clear()
    for result in together:
        alone = source_of(config, result.name)
        (expected,) = results_of(alone, score(counting, alone))
        assert same_result(result, expected), result.name
    assert in_one < sum(clips)
    counts = {result.name: result.summary["num_clips"] for result in together}
    assert counts == {
        "torchvision-clip": 30, "torchvision-video": 30, "vmz": 60, "zjut": 30, "views-10x3": 180, "one-clip": 6,
    }  # fmt: skip
    assert together[3].summary["spread"]["clip_top1"] >= 0 and "spread" not in together[0].summary
    assert together[0].summary["level"] == "clip" and together[1].summary["level"] == "video"
    assert together[1].summary["num_listed_videos"] == 7 and together[1].summary["num_labelled_videos"] == 6


def test_clips_of_two_lengths_are_read_together(config):
    batches = [(batch[0].shape[1], each.views.video_of(batch[2][:1])[0]) for each, batch in
               source_of(config, "vmz", "views-10x3").batches()]  # fmt: skip
    lengths, first_videos = zip(*batches, strict=True)
    assert list(first_videos) == sorted(first_videos)
    assert set(lengths) == {4, 16} and sum(one != other for one, other in pairwise(lengths)) > 5


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_videos_exactly(config, predict, world):
    names = ("torchvision-video", "zjut", "views-10x3")
    whole = source_of(config, *names)
    expected = results_of(whole, score(predict, whole))
    sources = [source_of(config, *names, rank=rank, world=world) for rank in range(world)]
    parts = [score(predict, source) for source in sources]
    seen = np.sum([part[0].views > 0 for part in parts], axis=0)
    assert seen.tolist() == [1] * 6, "a video twice, or not at all"
    others = [[values for each in part for values in each.sums()] for part in parts[1:]]
    sums = iter(zip(*others, strict=True))
    combine(parts[0], lambda values: values + sum(each.astype(np.float64) for each in next(sums)))
    results = results_of(sources[0], parts[0])
    assert all(same_result(result, other) for result, other in zip(results, expected, strict=True))


def test_more_processes_than_videos_is_no_error(config, predict):
    source = source_of(config, "one-clip", rank=6, world=7)
    (scores,) = score(predict, source)
    assert source.num_batches == 0 and not scores.views.any()


@pytest.mark.parametrize("name", ["torchvision-video", "vmz", "zjut", "views-10x3", "one-clip", None])
def test_infer_gives_the_probabilities_of_eval(config, predict, name):
    names = (name,) if name else ()
    source = source_of(config, *names)
    (result,) = results_of(source, score(predict, source))
    timeline, first = source.videos.timeline, np.zeros(1, np.int64)
    number = int(source.videos.video_ids[0].split("_")[-2])
    frames = frames_of(number, int(timeline.stored_frames[0]), config.preprocess)
    predictor = VideoPredictor(predict, source.config, 3)
    views = predictor.views(frames, timeline.of(first))
    of_black = replace(views, clips=np.zeros_like(views.clips))  # what shares a batch has no influence
    scores = predictor.scores([of_black, views, of_black])[1]
    np.testing.assert_allclose(scores.probabilities, result.probabilities[0], atol=1e-6)


def test_infer_names_a_video_that_is_too_short(config, predict):
    chosen = replace(config, eval=replace(config.eval, protocols=("torchvision-video",)))
    frames, ten = frames_of(0, 10, config.preprocess), np.array([10])
    short = Timeline(ten * 2, np.array([30.0]), ten, np.array([15.0]), np.array([False]))
    with pytest.raises(UserError, match="shorter than a clip of torchvision-video, 16 frames"):
        VideoPredictor(predict, chosen).views(frames, short)
