"""Compares classes and preprocessing between weights and the data they are used on, for train, eval and infer."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.common.errors import UserError
from pipeline.common.recipe import Preprocess, differences
from train.experiment.sections import WITHOUT_STEP, Config

log = logging.getLogger(__name__)


def saved_classes(facts: dict[str, Any]) -> int | None:
    """How many classes weights name in what was saved with them; None where they name none."""
    return len(facts.get("classes", [])) or None


def check_class_names(facts: dict[str, Any], names: list[str], path: Path, where: str) -> None:
    """Check that the classes of a ledger are those of the weights; warn if the weights do not name theirs.

    Args:
        facts: what was saved with the weights.
        names: label of each label_id of the ledger; empty where the ledger has no row of that class.
        path: the weights.
        where: name of the ledger, for the message.

    Raises:
        UserError: a class differs; the message names the first one.
    """
    if not facts.get("classes") and any(names):
        log.warning(
            "warning: %s: These weights do not name their classes, so they cannot be compared with those of %s. "
            "To name them: make convert FROM=%s TO=named.ckpt ARGS=--class-order=LIST",
            path, where, path,
        )  # fmt: skip
    for label_id, (trained, listed) in enumerate(zip(facts.get("classes", []), names, strict=False)):
        if trained and listed and trained != listed:
            raise UserError(
                f"{path}: class {label_id} is {trained!r} in these weights and {listed!r} in {where}. "
                "Use ledgers with the classes they were trained on (preprocess.dataset, preprocess.manifests). To "
                "train other classes from these weights, set train.head=new."
            )


def warn_if_preprocessed_differently(facts: dict[str, Any], settings: Preprocess, path: Path) -> None:
    """Warn if weights were trained with another recipe, and name the keys that differ if they are known.

    Args:
        facts: what was saved with the weights: their `recipe`, or only its `recipe_sha256`, or neither.
        settings: the recipe of the frames that they are used on.
        path: the weights.
    """
    if recipe := facts.get("recipe"):
        if different := differences(_pixels(settings.stored()), _pixels(recipe)):
            log.warning("warning: %s: These weights were trained with different preprocessing. %s", path, different)
    elif facts.get("recipe_sha256", settings.fingerprint()) != settings.fingerprint():
        log.warning(
            "warning: %s: These weights were trained with different preprocessing. Which keys differ was not saved.",
            path,
        )


def warn_if_seen_differently(
    facts: dict[str, Any], config: Config, path: Path, clips: Iterable[Mapping[str, float | str]]
) -> None:
    """Warn if weights were trained to see other clips than they get now, and name the keys.

    Args:
        facts: what was saved with the weights; what they lack is not compared.
        config: its `model`, `data_loader.eval` and `preprocess` are used.
        path: the weights.
        clips: `seq` and `frame_interval` or `seq_mode` of the clips that they get; without a key that makes no
            difference there.
    """
    different = [
        f"{key}: {_text(here)} here, {_text(there)} there"
        for clip in clips for key, (here, there) in _seen(facts, config, clip).items()
        if there is not None and here != there
    ]  # fmt: skip
    if different:
        log.warning(
            "warning: %s: These weights were trained to see other clips. %s. Results are lower than they could be.",
            path, "; ".join(dict.fromkeys(different)),
        )  # fmt: skip


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _seen(facts: dict[str, Any], config: Config, clip: Mapping[str, float | str]) -> dict[str, tuple[Any, Any]]:
    """What decides the input of a network, by key: now, and as recorded with weights (None: not recorded)."""
    views, exported, recipe = (_of(facts, key) for key in ("views", "normalisation", "recipe"))
    clip_of_export = _of(facts, "clip")
    options = _of(views, "dataset") or {
        "seq": clip_of_export.get("num_frames"), "seq_mode": clip_of_export.get("mode"),
        "frame_interval": clip_of_export.get("interval"),
    }  # fmt: skip
    mode = options.get("seq_mode")
    if mode in WITHOUT_STEP:
        options = {**options, "frame_interval": f"none (seq_mode {mode})"}
    elif mode == "part":
        options = {**options, "frame_interval": 1}
    seen: dict[str, tuple[Any, Any]] = {
        f"data_loader.eval.dataset.{key}": (value, options.get(key)) for key, value in clip.items()
    }
    # The operations are not compared one by one: a map without a crop differs from one with a crop, too.
    now = config.data_loader.eval.transforms(config.preprocess.frame_size)
    operations = (each for each in _of(views, "map").get("operations") or [] if isinstance(each, dict))
    recorded = {str(each.get("type")): each for each in operations}
    whole = [recipe["height"], recipe["width"]] if recorded and {"height", "width"} <= recipe.keys() else None
    crop = recorded.get("VideoCenterCrop", recorded.get("VideoResize", {})).get("size", whole)
    seen["data_loader.eval.map.VideoCenterCrop.size"] = list(now.crop), crop
    for key, value in (("mean", now.mean), ("std", now.std)):
        there = _of(recorded, "VideoNormalize").get(key, exported.get(key))
        seen[f"data_loader.eval.map.VideoNormalize.{key}"] = list(value), there
    network = _of(facts, "network") or _of(facts, "model")
    seen["model.bn_eps"] = (config.model.bn_eps, network.get("bn_eps"))
    return seen


def _of(record: Mapping[Any, Any], key: str) -> dict[str, Any]:
    value = record.get(key)
    return value if isinstance(value, dict) else {}


def _pixels(recipe: dict[str, Any]) -> str:
    """The part of a recipe that decides a network's input pixels, as JSON; the order of videos in shards does not."""
    keys = ["height", "width", "interpolation", "fps", "codec"]
    if recipe.get("codec") == "jpeg":
        keys.append("jpeg_quality")
    return json.dumps({key: recipe.get(key) for key in keys})
