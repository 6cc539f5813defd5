"""Reads the command line of a command that uses weights: evaluate, features, infer, export."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pipeline.common import cli
from pipeline.common.settings import Document
from train.experiment.load import load_config
from train.experiment.sections import Config
from train.runs.choose import config_of_run, has_best


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, section: str
) -> tuple[argparse.Namespace, Document, Config]:
    """Read flags and settings, and set up logging; without -c, the settings are those of the weights' run.

    Args:
        parser: made by `cli.parser`.
        argv: the words (default: those of this process).
        section: whose `pretrained_model` names the weights.

    Raises:
        As `cli.parse` and `load_config`.
    """
    key = f"{section}.pretrained_model"
    args, document = cli.parse(
        parser, argv, lambda _args, overrides: config_of_run(overrides.get(key), overrides, has_best)
    )
    cli.set_up_logging()
    return args, document, load_config(document)
