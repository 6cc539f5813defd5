"""Compares classes and preprocessing between weights and the data they are used on, for train, eval and infer."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from pipeline.common.errors import UserError
from pipeline.common.recipe import Preprocess, differences

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


def _pixels(recipe: dict[str, Any]) -> str:
    """The part of a recipe that decides a network's input pixels, as JSON; the order of videos in shards does not."""
    keys = ["height", "width", "interpolation", "fps", "codec"]
    if recipe.get("codec") == "jpeg":
        keys.append("jpeg_quality")
    return json.dumps({key: recipe.get(key) for key in keys})
