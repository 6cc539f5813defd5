"""The commands that a person runs after a training, ready to paste into a shell."""

from __future__ import annotations

import shlex
from pathlib import Path

from pipeline.common.cli import DEFAULT_CONFIG
from pipeline.common.settings import Document
from train.data.videos import source_of_a_video
from train.experiment.sections import Config, Train
from train.runs.choose import has_best


def next_commands(config: Config, document: Document, run: Path) -> list[str]:
    """One line for each command: what it does, and the command.

    Args:
        config: the settings of the training.
        document: what they were read from.
        run: the run folder.
    """
    # Without CKPT these verbs take the newest run in `runs`, if it has a best checkpoint.
    usual = config.train.ckpt_path == Train().ckpt_path and has_best(run)
    of_run = () if usual else (f"CKPT={run}",)
    video = source_of_a_video(config.preprocess, config.data_loader.eval.dataset.split) or "clip.mp4"
    commands = [
        ("predict a video", ("infer", f"VIDEO={video}", *of_run)),
        ("pages of data, run, results", ("report", *of_run)),
    ]
    if document.path == Path(DEFAULT_CONFIG):
        commands.append(("train on your own videos", ("train", "DATA=/my/videos")))
    width = max(len(what) for what, _ in commands)
    return ["What to do next:", *(f"  {what:{width}}  make {shlex.join(words)}" for what, words in commands)]
