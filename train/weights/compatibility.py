"""What weights were trained on, held against what they are used on."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import UserError
from pipeline.common.recipe import Preprocess, differences
from train.experiment.sections import Model
from train.weights import checkpoint
from train.weights.files import read_safetensors
from train.weights.mindir import read_facts

log = logging.getLogger(__name__)


def saved_classes(path: Path) -> int | None:
    """How many classes a file of weights names in what was saved with it; None where it names none.

    Raises:
        UserError: the file is missing, or what was saved with it is damaged.
    """
    if path.suffix == ".mindir":
        return len(read_facts(path).get("classes", [])) or None
    facts = read_safetensors(path)[1] if path.suffix == ".safetensors" else checkpoint.read_state(path)
    return len(facts.get("classes", [])) or None


def check_class_names(facts: dict[str, Any], names: list[str], path: Path, where: str) -> None:
    """Refuse a ledger whose classes are not those of the weights.

    Args:
        facts: what was saved with the weights; without `classes` nothing is known, and nothing refused.
        names: label of each label_id of the ledger; empty where it has no row of one.
        path: the weights.
        where: which ledger it is, for the message.

    Raises:
        UserError: naming the first class that differs.
    """
    for label_id, (there, here) in enumerate(zip(facts.get("classes", []), names, strict=False)):
        if there and here and there != here:
            raise UserError(
                f"{path}: class {label_id} is {there!r} there and {here!r} in {where}; score it on the classes it was "
                "trained on (preprocess.dataset, preprocess.manifests)"
            )


def warn_of_other_frames(facts: dict[str, Any], settings: Preprocess, path: Path) -> None:
    """Warn when weights were trained on frames made by another recipe, and say which keys differ where that is known.

    Args:
        facts: what was saved with the weights: their `recipe`, or at least its `recipe_sha256`, or neither.
        settings: the recipe of the frames that they are used on.
        path: the weights.
    """
    if recipe := facts.get("recipe"):
        if said := differences(_pixels(settings.stored()), _pixels(recipe)):
            log.warning("warning: %s: trained on other frames than these: %s", path, said)
    elif facts.get("recipe_sha256", settings.fingerprint()) != settings.fingerprint():
        log.warning("warning: %s: trained on frames of another recipe than preprocess; its keys were not noted", path)


def _pixels(recipe: dict[str, Any]) -> str:
    """What of a recipe decides the pixels a network sees, as JSON; where videos stand in shards does not."""
    keys = ["height", "width", "interpolation", "fps", "codec"]
    if recipe.get("codec") == "jpeg":
        keys.append("jpeg_quality")
    return json.dumps({key: recipe.get(key) for key in keys})


def check_classes(settings: Model, label_ids: NDArray[np.int32], class_names: list[str], where: str) -> None:
    """Refuse labels the network has no logit for.

    Args:
        settings: the `model` section.
        label_ids: (V,) of the videos, -1 where unlabelled.
        class_names: label of each label_id.
        where: which ledger they are from, for the message.

    Raises:
        UserError: naming both numbers.
    """
    highest = int(label_ids.max(initial=-1))
    if highest >= settings.classes:
        raise UserError(
            f"model.num_classes: got {settings.classes}, but {where} has label_id {highest}; "
            f"set it to {max(len(class_names), highest + 1)}"
        )
