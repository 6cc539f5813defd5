"""Both decoders, for the tests of what each must give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pipeline.common.recipe import Preprocess
from pipeline.decoding import decode
from pipeline.decoding.frames import DecodedVideo
from pipeline.decoding.video_file import VideoFile


@pytest.fixture(params=["decord", "pyav"])
def either_decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test runs with decord as the recipe's decoder, and then with PyAV; returns which one."""
    honest: Callable[..., DecodedVideo] = decode._decode

    def chosen(file: VideoFile, settings: Preprocess, *rest: object) -> DecodedVideo:
        return honest(file, replace(settings, decoder=request.param), *rest)

    monkeypatch.setattr(decode, "_decode", chosen)
    return str(request.param)
