"""Records every start of a run in its starts.jsonl: when, by which command, on which machine and with which settings.

config.yaml and env.json are of the last start; this file keeps all of them.  Each line is one JSON object: what
env.json holds, and

    step      finished steps when training started; 0 in a new run
    git       commit of this program, and whether a file of it was changed since (`dirty`); null outside a repository
    changed   settings that differ from the start before, as {"learning_rate.lr": [before, now]}
    settings  all settings
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from pipeline.common.errors import UserError
from pipeline.common.settings import Document, build, to_plain
from train.experiment.sections import Config
from train.runs.append_file import AppendFile
from train.weights import sealed_json

STARTS = "starts.jsonl"

_ROOT = Path(__file__).resolve().parents[2]
_GIT_S = 5.0  # seconds after which git is not waited for


def record_start(run: Path, config: Config, environment: dict[str, Any], step: int) -> dict[str, list[Any]]:
    """Append a start to a run's starts.jsonl; a run of an earlier version first gets its last start there.

    Args:
        run: the run folder, still with the config.yaml and env.json of the start before.
        config: the settings of this start.
        environment: facts about this machine, for env.json.
        step: finished steps.

    Returns:
        The settings that differ from the start before, by key: before and now.  Empty in a new run.

    Raises:
        OSError: the file cannot be written; it has no part of the line.
    """
    path, settings = run / STARTS, _json(to_plain(config))
    before = _last_settings(run)
    lines = []
    if before is None and (earlier := _settings_of(run / "config.yaml")) is not None:
        before = earlier
        lines.append({**_object_of(run / "env.json"), "settings": earlier})
    changed = dict(_differences(before, settings)) if before is not None else {}
    lines.append({**environment, "step": step, "git": git_facts(), "changed": changed, "settings": settings})
    ends = not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")  # not so after a power failure
    with closing(AppendFile(path)) as file:
        file.write((b"" if ends else b"\n") + b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    return changed


def read_starts(run: Path) -> list[dict[str, Any]]:
    """The starts of a run, first one first; corrupted lines are left out.

    Raises:
        OSError: the file cannot be read.
    """
    path, starts = run / STARTS, []
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        try:
            starts.append(sealed_json.parse(line))
        except sealed_json.JsonError:
            continue
    return starts


def git_facts(root: Path = _ROOT) -> dict[str, Any] | None:
    """The commit of the program in `root` and whether its files were changed since; None if that cannot be known."""
    if not (root / ".git").exists():  # git would look in the folders above, which belong to something else
        return None
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no") if commit else None
    return {"commit": commit, "dirty": bool(changed)} if commit and changed is not None else None


def _git(root: Path, *words: str) -> str | None:
    """What a git command prints; None if it fails."""
    # --no-optional-locks: nothing is written; core.fsmonitor could start another program; in a container the files
    # often belong to another user; a hook of git's has variables that name its own repository.
    settings = ("-c", "core.fsmonitor=false", "-c", "safe.directory=*")
    command = ["git", "--no-optional-locks", *settings, "-C", str(root), *words]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, capture_output=True, timeout=_GIT_S, stdin=subprocess.DEVNULL, env=variables)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else None


def changed_settings(run: Path, config: Config) -> dict[str, list[Any]]:
    """The settings that differ from the last start of a run, by key: before and now; empty if that is unknown."""
    before = _last_settings(run) or _settings_of(run / "config.yaml")
    return dict(_differences(before, _json(to_plain(config)))) if before is not None else {}


def _last_settings(run: Path) -> dict[str, Any] | None:
    starts = [start for start in read_starts(run) if isinstance(start.get("settings"), dict)]
    return starts[-1]["settings"] if starts else None


def _settings_of(path: Path) -> dict[str, Any] | None:
    """The settings of a config.yaml; None if it is missing or is of another version."""
    if not path.is_file():
        return None
    try:
        return _json(to_plain(build(Config, Document(path))))
    except UserError:
        return None


def _object_of(path: Path) -> dict[str, Any]:
    try:
        return sealed_json.parse(path.read_bytes())
    except (OSError, sealed_json.JsonError):
        return {}


def _differences(before: Any, now: Any, key: str = "") -> Iterator[tuple[str, list[Any]]]:
    """The keys whose values differ; a key that one of them lacks is None there."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        if before != now:
            yield key, [before, now]
        return
    for name in dict.fromkeys([*before, *now]):
        yield from _differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)


def _json(value: Any) -> Any:
    """A value as it comes back from a JSON file."""
    return json.loads(json.dumps(value))
