"""A Dask cluster writes the same bytes as one machine, even if a worker dies."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hold_video import HOLDING, held
from make_inputs import files, leftovers, make_inputs, moved, path_of, train_rows
from paths import ROOT
from waiting import wait_until

from pipeline.common.errors import MachineError, UserError
from pipeline.common.recipe import Preprocess
from pipeline.execution import dask_cluster
from pipeline.execution.plan import plan_all
from pipeline.execution.run import preprocess_store
from pipeline.ledger.table import read_ledgers

dask = pytest.importorskip("dask", reason="the extra [cluster] is not installed")
distributed = pytest.importorskip("distributed", reason="the extra [cluster] is not installed")


@pytest.fixture(scope="module")
def workers() -> Iterator["distributed.LocalCluster"]:
    """Two processes with one thread each."""
    os.environ["DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD"] = "spawn"
    # On a slow machine a killed worker takes longer to come back than the 15 s after which Dask gives it up.
    patience = {"distributed.deploy.lost-worker-timeout": "10m", "distributed.comm.timeouts.connect": "2m"}
    with (
        dask.config.set(patience),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, env=HOLDING) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Preprocess:
    return make_inputs(tmp_path_factory.mktemp("inputs"), videos_per_shard=3)


@pytest.fixture(scope="module")
def undisturbed(inputs: Preprocess, tmp_path_factory: pytest.TempPathFactory) -> Preprocess:
    settings = moved(inputs, tmp_path_factory.mktemp("local"))
    assert preprocess_store(settings) == 0
    return settings


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler or a worker may take long to answer."""
    for name in ("_CONNECT_S", "_LOST_S"):
        monkeypatch.setattr(dask_cluster, name, 100)


def on(workers, inputs, folder, **changes) -> Preprocess:
    """Settings for the cluster, once both workers are there: one that a test killed takes seconds to come back."""
    wait_until(lambda: len(workers.scheduler.workers) == 2)
    return moved(inputs, folder, engine="dask", scheduler=workers.scheduler_address, **changes)


def test_a_cluster_writes_the_bytes_of_one_machine(patient, workers, inputs, undisturbed, tmp_path):
    settings = on(workers, inputs, tmp_path)
    assert preprocess_store(settings) == 0
    assert files(settings) == files(undisturbed)
    assert leftovers(settings) == []


def test_a_shard_whose_worker_dies_is_given_to_another(patient, workers, inputs, undisturbed, tmp_path):
    settings = on(workers, inputs, tmp_path)
    shard = train_rows(undisturbed)["shard"].iloc[7].removesuffix(".h5")
    killed, holds = [], threading.Event()

    def kill_the_writer() -> None:
        with held(path_of(inputs, 7)) as reached:
            holds.set()
            wait_until(reached.exists)
            (path,) = Path(settings.store).glob(f".{shard}.*.h5.tmp")
            killed.append(int(path.name.split("-")[-1].split(".")[0]))
            os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_the_writer)
    killer.start()
    holds.wait()
    assert preprocess_store(settings) == 0
    killer.join()
    assert killed and killed[0] != os.getpid()
    assert files(settings) == files(undisturbed)
    assert leftovers(settings) == []


def test_workers_of_other_versions_are_refused_by_name(patient, workers, inputs, tmp_path, monkeypatch):
    settings = on(workers, inputs, tmp_path)
    monkeypatch.setattr(dask_cluster, "_versions", lambda: {"decord2": "0.1"})
    with pytest.raises(
        UserError, match=r"2 of 2 workers cannot take part: tcp://\S+: decord2 \d.*, expected 0.1; tcp://"
    ):
        preprocess_store(settings)
    assert list(Path(settings.store).glob("*.h5")) == []


def test_no_scheduler_is_said_in_one_line(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(dask_cluster, "_CONNECT_S", 0.5)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        settings = moved(inputs, tmp_path, engine="dask", scheduler=address)
        with pytest.raises(UserError, match=rf"preprocess.scheduler: {address} does not answer .*`dask scheduler`"):
            preprocess_store(settings)


def test_worker_stops_writing_when_its_run_has_ended(inputs, tmp_path):
    settings = moved(inputs, tmp_path)
    Path(settings.store).mkdir()
    task = plan_all(read_ledgers(settings), settings)[0]
    with pytest.raises(RuntimeError, match="no longer locked by process 1 on elsewhere"):
        dask_cluster._write(task, settings, run="process 1 on elsewhere")
    assert os.listdir(settings.store) == []


def test_a_cluster_needs_an_address():
    with pytest.raises(ValueError, match="scheduler: got '', expected its address"):
        Preprocess(engine="dask")


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9])
def test_address_of_no_scheduler_is_said_soon(inputs, tmp_path, monkeypatch, answer):
    monkeypatch.setattr(dask_cluster, "_CONNECT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: answer and server.accept()[0].sendall(answer), daemon=True).start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        settings = moved(inputs, tmp_path, engine="dask", scheduler=address)
        began = time.monotonic()
        with pytest.raises(UserError, match=f"preprocess.scheduler: {address} does not answer"):
            preprocess_store(settings)
        assert time.monotonic() - began < 20  # Dask itself waits for 30


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["scheduler", "workers"])
def test_lost_cluster_is_said_within_ten_seconds(inputs, tmp_path, lost):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with contextlib.ExitStack() as stack:

        def start(*words: str) -> subprocess.Popen:
            child = subprocess.Popen([sys.executable, "-m", *words], env=environment, stderr=subprocess.DEVNULL)
            stack.callback(child.wait)
            stack.callback(child.kill)
            return child

        file = tmp_path / "scheduler.json"
        options = ("--scheduler-file", str(file))
        scheduler = start("distributed.cli.dask_scheduler", "--host=127.0.0.1", "--port=0", "--no-dashboard", *options)
        worker = start(
            "distributed.cli.dask_worker", "--no-nanny", "--nthreads=1", "--no-dashboard",
            f"--local-directory={tmp_path}", *options,
        )  # fmt: skip
        wait_until(lambda: file.exists() and file.read_text().endswith("}"))
        settings = moved(inputs, tmp_path, engine="dask", scheduler=json.loads(file.read_text())["address"])
        with distributed.Client(settings.scheduler) as client:
            client.wait_for_workers(1, timeout=300)
        ended = []

        def kill_when_a_shard_is_begun() -> None:
            wait_until(lambda: list(Path(settings.store).glob(".*.h5.tmp")))
            (scheduler if lost == "scheduler" else worker).kill()
            ended.append(time.monotonic())

        killer = threading.Thread(target=kill_when_a_shard_is_begun)
        killer.start()
        with pytest.raises(MachineError, match="does not answer any more|has no workers any more") as caught:
            preprocess_store(settings)
        assert time.monotonic() - ended[0] < 10
        assert caught.value.exit_code == 74
        killer.join()
