"""Both decoders, for the tests of what each must give."""

import pytest

from pipeline.decoding import decode


@pytest.fixture(params=["decord", "pyav"])
def either_decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs with decord first, and then with only PyAV."""
    if request.param == "pyav":
        monkeypatch.setattr(decode, "decode_with_decord", lambda *_arguments: None)
