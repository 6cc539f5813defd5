"""Small videos for attacks on a run, and what a run that is not attacked makes of them."""

import pytest
from make_inputs import BY_DECORD, BY_PYAV, make_both, moved, train_rows

from pipeline.common.recipe import Preprocess
from pipeline.execution.run import preprocess_store


@pytest.fixture(scope="session", params=["decord", pytest.param("pyav", marks=pytest.mark.slow)])
def inputs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Preprocess:
    """Nine videos and their pending ledger: one is missing, one is no video, and one is only decoded by PyAV."""
    return make_both(tmp_path_factory.mktemp("inputs"), decoder=request.param)


@pytest.fixture(scope="session")
def undisturbed(inputs: Preprocess, tmp_path_factory: pytest.TempPathFactory) -> Preprocess:
    """The files that an undisturbed run writes."""
    settings = moved(inputs, tmp_path_factory.mktemp("undisturbed"), jobs=1)
    assert preprocess_store(settings) == 0
    first = "" if settings.decoder == "decord" else "pyav"
    assert train_rows(settings)["decoder"].iloc[[BY_DECORD, BY_PYAV]].tolist() == [first, "pyav"]
    return settings
