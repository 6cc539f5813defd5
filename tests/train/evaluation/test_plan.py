"""Each distinct view is planned once, and protocols get the crops and clips that they name."""

from dataclasses import replace

import numpy as np
import pytest
from speed import second, seconds_of

from pipeline.common.errors import UserError
from pipeline.common.recipe import Preprocess
from pipeline.decoding.resample import kept_frames
from train.data.timeline import Timeline
from train.evaluation.plan import check_lengths, check_protocols, make_plan
from train.evaluation.protocols import PROTOCOLS, clips_seen, protocols_of, source_frames
from train.experiment.sections import Config, DataLoader, Dataset, Eval, Loader, ProtocolName

ALL = ("torchvision-clip", "torchvision-video", "vmz", "zjut", "views-10x3", "one-clip")


def config_with(*protocols: str, recipe: Preprocess | None = None, **dataset: object) -> Config:
    options = {"split": "val", "seq_mode": "uniform", "shuffle": False, **dataset}
    loaders = DataLoader(eval=Loader(Dataset(**options)))
    return Config(data_loader=loaders, eval=Eval(protocols=protocols), preprocess=recipe or Preprocess())


def sources(frames: list[int], rates: list[float], fps: float | str = 15.0) -> Timeline:
    stored = [kept_frames(count, rate, fps) for count, rate in zip(frames, rates, strict=True)]
    return Timeline(
        np.array(frames), np.array(rates, np.float64), np.array([len(kept) for kept, _ in stored]),
        np.array([rate for _, rate in stored]), np.zeros(len(frames), bool),
    )  # fmt: skip


def plan_of(config: Config, timeline: Timeline, videos=None):
    protocols = protocols_of(config.eval.protocols, config.data_loader.eval.dataset)
    videos = np.arange(len(timeline.source_frames)) if videos is None else np.array(videos)
    return make_plan(protocols, config, timeline, videos)


def views_in(plan, number: int):
    """The views that count number `number` takes: (video, frames, top, left), as often as they count."""
    (taking,) = (each for each in plan.passes if number in each.times)
    samples = np.repeat(np.arange(len(taking.times[number])), taking.times[number])
    cuts = taking.views.cuts(samples, None)
    videos = taking.views.video_of(samples).tolist()
    return list(zip(videos, map(tuple, cuts.frames.tolist()), cuts.top.tolist(), cuts.left.tolist(), strict=True))


def test_names_in_settings_are_those_of_the_table():
    assert ProtocolName.__args__ == tuple(PROTOCOLS)


@pytest.mark.parametrize("fps", [15.0, "source"])
def test_stored_views_show_the_source_frames(fps):
    rates = [10, 24000 / 1001, 25, 30000 / 1001, 30, 50, 60000 / 1001]
    timeline = sources([100, 240, 250, 300, 300, 500, 600], rates, fps)
    plan = plan_of(config_with("torchvision-video", recipe=Preprocess(fps=fps)), timeline)
    taken = views_in(plan, 0)
    for video, rate in enumerate(rates):
        kept, _ = kept_frames(int(timeline.source_frames[video]), rate, fps)
        shown = [kept[list(frames)].tolist() for number, frames, *_ in taken if number == video]
        assert shown == source_frames("torchvision-video", int(timeline.source_frames[video]), rate)
    assert not plan.inexact[0].any() and not plan.short[0].any()
    assert {place[2:] for place in taken} == {(8, 30)}


def test_frames_that_are_not_stored_are_counted():
    by_time = sources([300], [30])._replace(stored_frames=np.array([140]))
    for fps, timeline, inexact in (
        (20, sources([300, 300, 300], [15, 30, 50], 20), [False, True, True]),
        (15, sources([4000, 4000, 4000], [30, 17.5, 62.5]), [False, True, True]),  # floored in float32
        (15, by_time, [True]),
    ):
        plan = plan_of(config_with("torchvision-video", recipe=Preprocess(fps=fps)), timeline)
        assert plan.inexact[0].tolist() == inexact
        assert all(max(view[1]) < timeline.stored_frames[view[0]] for view in views_in(plan, 0))
    short = plan_of(config_with("torchvision-video", "vmz"), by_time._replace(source_frames=np.array([20])))
    assert [each.tolist() for each in short.inexact] == [[False], [True]]  # the first has no clip


def test_short_videos_have_no_clip_or_repeat():
    timeline = sources([10, 300, 31], [30, 30, 30])
    plan = plan_of(config_with("torchvision-clip", "vmz", "one-clip"), timeline)
    assert [sum(view[0] == 0 for view in views_in(plan, number)) for number in range(3)] == [0, 10, 1]
    assert [each.tolist() for each in plan.short] == [[True, False, False]] * 3
    assert {view[2:] for view in views_in(plan, 1)} == {(8, 29)}  # rounded down
    assert views_in(plan, 1)[0][1] == (0, 1, 2, 3, 4) * 3 + (0,)
    assert views_in(plan, 2)[1][1] == tuple(range(67, 83))  # the middle of 135 windows


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("torchvision-clip", "torchvision-clip, 16 frames at 15 per second. Remove it."),
        ("vmz", "vmz, 16 frames at 15 per second. Remove it."),
        ("one-clip", "one-clip, 22 frames. Remove it, or set a smaller data_loader.eval.dataset.seq."),
        ("zjut", "zjut, 22 frames. Remove it, or"),
    ],
)
def test_clips_longer_than_any_video_are_refused(name, named):
    config = config_with(name, seq=22)
    protocols = protocols_of(config.eval.protocols, config.data_loader.eval.dataset)
    with pytest.raises(UserError) as caught:
        check_lengths(protocols, config, sources([10, 21], [30, 30]), "these")
    assert f"eval.protocols: every video of these is shorter than a clip of {named}" in str(caught.value)
    check_lengths(protocols, config, sources([10, 50], [30, 30]), "these")
    own = protocols_of((), config.data_loader.eval.dataset)
    check_lengths(own, config, sources([10, 21], [30, 30]), "these")  # the configuration's own keys loop


def test_zjut_takes_zjut_mindvideos_random_clips():
    timeline = sources([300, 77, 9], [30, 25, 30], "source")
    config = config_with("zjut", recipe=Preprocess(fps="source"))
    plan = plan_of(config, timeline)
    clips = [[view[1] for view in views_in(plan, seed)] for seed in range(5)]
    for video, frames in enumerate((300, 77, 9)):
        step = frames // 16  # 0: one frame again and again
        assert {clip[video] for clip in clips} <= {
            tuple(range(start, start + 16 * step, step)) if step else (0,) * 16 for start in range(max(step, 1))
        }
    assert len({clip[0] for clip in clips}) > 1 and {view[2:] for view in views_in(plan, 0)} == {(8, 30)}
    assert plan.short[0].tolist() == [False, False, True] and not plan.inexact[0].any()
    loaders = config.data_loader
    discrete = replace(loaders.eval, dataset=replace(loaders.eval.dataset, seq_mode="discrete"))
    plan = plan_of(replace(config, data_loader=replace(loaders, eval=discrete)), timeline)
    assert all(len(set(view[1])) == 16 and view[1] == tuple(sorted(view[1])) for view in views_in(plan, 0)[:2])
    stored = plan_of(config_with("zjut"), sources([300, 77, 9], [30, 25, 15]))
    # Every second frame is stored, and a step of 18 begins at an even one or not.
    assert np.any(stored.inexact, axis=0).tolist() == [True, True, False] and not np.all(stored.inexact)
    assert [view[1][-1] - view[1][0] for view in views_in(stored, 0)] == [135, 36, 0]


def test_distinct_views_are_planned_once():
    timeline = sources([300, 40, 250, 33], [30, 30, 25, 30])
    together = plan_of(config_with(*ALL), timeline)
    (one,) = together.passes
    cuts = one.views.cuts(np.arange(one.views.num_samples(4)), None)
    rows = np.column_stack([one.views.video_of(np.arange(len(cuts.top))), cuts.frames, cuts.top, cuts.left])
    assert len(np.unique(rows, axis=0)) == len(rows) < sum(each.sum() for each in one.times.values())
    names = [count.name for count in together.counts]
    assert names == ["torchvision-clip", "torchvision-video", "vmz", *["zjut"] * 5, "views-10x3", "one-clip"]
    for name in ALL:
        alone = plan_of(config_with(name), timeline)
        for number, count in enumerate(alone.counts):
            place = names.index(name) + count.seed
            assert views_in(alone, number) == views_in(together, place)
    assert len(views_in(together, names.index("views-10x3"))) == 4 * 30
    assert {view[3] for view in views_in(together, names.index("views-10x3"))} == {0, 30, 59}


def test_views_of_a_video_do_not_depend_on_others():
    timeline, config = sources([300, 40, 250, 33], [30, 30, 25, 30]), config_with(*ALL)
    whole = plan_of(config, timeline)
    for videos in ([0, 2], [1, 3]):
        part = plan_of(config, timeline, videos)
        for number in range(len(whole.counts)):
            assert views_in(part, number) == [view for view in views_in(whole, number) if view[0] in videos]


def test_clips_of_other_lengths_are_another_pass():
    plan = plan_of(config_with("vmz", "one-clip", seq=8), sources([300], [30]))
    assert [each.loader.dataset.seq for each in plan.passes] == [16, 8]


def test_clips_are_compared_in_stored_frames():
    def seen(name: str | None, fps: float | str = 15.0, **dataset: object) -> list[dict[str, float | str]]:
        config = config_with(*([name] if name else []), recipe=Preprocess(fps=fps), seq=8, frame_interval=2, **dataset)
        return clips_seen(protocols_of(config.eval.protocols, config.data_loader.eval.dataset).values(), config)

    assert seen("vmz") == [{"seq": 16, "frame_interval": 1}]
    assert seen("vmz", fps=30.0) == [{"seq": 16, "frame_interval": 2}]
    assert seen("vmz", fps="source") == [{"seq": 16}]  # another step in each video
    assert seen("one-clip") == seen(None) == [{"seq": 8, "frame_interval": 2}]
    assert seen("zjut") == seen(None, seq_mode="average") == [{"seq": 8, "seq_mode": "average"}]
    assert seen("zjut", seq_mode="discrete") == [{"seq": 8, "seq_mode": "discrete"}]
    assert seen(None, seq_mode="part") == [{"seq": 8, "frame_interval": 1}]
    config = config_with("torchvision-clip", "torchvision-video", "one-clip", frame_interval=4)
    assert len(clips_seen([PROTOCOLS[name] for name in config.eval.protocols], config)) == 2


def test_stored_frames_that_cannot_give_a_protocol():
    def refused(name: str, **recipe: object) -> str:
        config = config_with(name, recipe=Preprocess(**recipe))
        with pytest.raises(UserError) as caught:
            check_protocols(protocols_of(config.eval.protocols, config.data_loader.eval.dataset), config)
        return str(caught.value)

    assert "vmz-pt needs stored frames of (128, 174), but" in refused("vmz-pt")
    assert "vmz needs 15 frames per second, but preprocess.fps stores 10" in refused("vmz", fps=10)
    wide = config_with("vmz-pt", recipe=Preprocess(width=174))
    check_protocols({"vmz-pt": PROTOCOLS["vmz-pt"]}, wide)
    assert {view[2:] for view in views_in(plan_of(wide, sources([300], [30])), 0)} == {(8, 31)}


def test_views_of_2000_videos_are_chosen_fast():
    rng = np.random.default_rng(0)
    frames, rates = rng.integers(60, 300, 2_000), rng.choice([24, 25, 30000 / 1001, 30], 2_000)
    steps = np.maximum(rates / 15, 1)
    timeline = Timeline(frames, rates, np.ceil(frames / steps).astype(np.int64), rates / steps, rates < 0)
    config = config_with("torchvision-clip", "torchvision-video", "views-10x3")
    assert seconds_of(lambda: plan_of(config, timeline)) < second()  # 0.1 s


def test_own_keys_of_the_configuration_are_a_protocol():
    config = config_with(num_clips=3, num_crops=3, seq=4)
    assert len(views_in(plan_of(config, sources([300, 9], [30, 30])), 0)) == 18
    random = replace(config.data_loader.eval.dataset, seq_mode="random")
    config = replace(config, data_loader=replace(config.data_loader, eval=Loader(random)))
    assert len(set(views_in(plan_of(config, sources([300], [30])), 0))) == 9
