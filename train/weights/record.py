"""What is recorded with weights of their network and of what it sees; they can be used without their YAML file."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.common.errors import SettingsError, UserError
from pipeline.common.recipe import Preprocess
from pipeline.common.settings import Document, build, to_plain
from train.experiment.sections import Config, Loader, Model
from train.experiment.transforms import Map
from train.weights import checkpoint
from train.weights.exported import RUNNERS, read_facts
from train.weights.files import read_safetensors
from train.weights.pytorch import is_pytorch

log = logging.getLogger(__name__)

# The keys that decide a network's parameters and what it computes from a clip.
_NETWORK = ("type", "stage_channels", "stage_strides", "num_classes", "midplanes", "bn_eps")
# The keys that decide a clip's pixels: of the recipe, and of `data_loader.eval.dataset`.
_PIXELS = ("height", "width", "interpolation", "fps")
_VIEWS = ("seq", "seq_mode", "frame_interval")


def network_of(settings: Model) -> dict[str, Any]:
    """The record of a network: the part of the `model` section that decides it."""
    values = to_plain(settings)
    return {key: values[key] for key in _NETWORK}


def views_of(settings: Config) -> dict[str, Any]:
    """The record of what the network sees in evaluation: the part of `data_loader.eval` that decides it."""
    values = to_plain(settings.data_loader.eval)
    operations = [
        {key: value for key, value in one.items() if value is not None} for one in values["map"]["operations"]
    ]
    return {"dataset": {key: values["dataset"][key] for key in _VIEWS}, "map": {"operations": operations}}


def read_record(path: Path) -> dict[str, Any]:
    """What was saved with a file of weights; empty where nothing was.

    Raises:
        UserError: the file is missing, or what was saved with it is damaged.
    """
    if path.suffix in RUNNERS:
        return read_facts(path)
    if is_pytorch(path):
        return {}
    return read_safetensors(path)[1] if path.suffix == ".safetensors" else checkpoint.read_state(path)


def with_network(config: Config, document: Document, facts: dict[str, Any], path: Path) -> Config:
    """The settings with the network that weights were trained as; unchanged if that was not recorded.

    Keys of `model` that are given on the command line stay.  Logs the keys that differ from the configuration's.

    Args:
        config: the loaded settings.
        document: what they were loaded from.
        facts: from `read_record`.
        path: the weights.

    Raises:
        UserError: the record is corrupted, or the command line has another number of classes.
    """
    saved = _saved_network(facts, path)
    if saved is None:
        return config
    typed = document.overridden("model") - ({"num_classes"} if config.model.num_classes == "auto" else set())
    if "num_classes" in typed and config.model.num_classes != saved.num_classes:
        raise UserError(
            f"--model.num_classes: got {config.model.num_classes}, but {path} has {saved.num_classes} classes. "
            f"Set model.num_classes to {saved.num_classes}, or remove --model.num_classes."
        )
    values = {key: getattr(saved, key) for key in _NETWORK if key not in typed}
    ours = to_plain(config.model)
    differing = [
        key for key in values if to_plain(values[key]) != ours[key] and (key, ours[key]) != ("num_classes", "auto")
    ]
    if differing:
        # Weights fit a network of any epsilon, so only the results would show another one.
        level, start = (logging.WARNING, "warning: ") if "bn_eps" in differing else (logging.INFO, "")
        keys = ", ".join(differing)
        log.log(level, "%snetwork: as recorded with %s; this configuration has another model.%s", start, path, keys)
    return replace(config, model=replace(config.model, **values))


def _saved_network(facts: dict[str, Any], path: Path) -> Model | None:
    """The `model` section of what was saved with weights, or of the settings of their run; None without both."""
    values = facts.get("model") if path.suffix in RUNNERS else facts.get("network")
    if values is not None:
        return _built(Model, values, path, "network")
    run = checkpoint.run_of(path)
    if run is not None and (run / "config.yaml").is_file():  # checkpoints of earlier versions
        return build(Model, Document(run / "config.yaml"), "model")
    return None


def with_input(config: Config, document: Document, facts: dict[str, Any], path: Path) -> Config:
    """The settings with the recipe and the views that weights were trained and evaluated with, for other videos.

    Keys of `data_loader.eval.dataset` that are given on the command line stay.  Unchanged if nothing was recorded.

    Args:
        config: the loaded settings.
        document: what they were loaded from.
        facts: from `read_record`.
        path: the weights.

    Raises:
        UserError: the record is damaged.
    """
    if "views" not in facts or "recipe" not in facts:
        return config
    views: Loader = _built(Loader, facts["views"], path, "views")
    pixels = facts["recipe"]
    if isinstance(pixels, dict):
        pixels = {key: pixels[key] for key in _PIXELS if key in pixels}
    recipe: Preprocess = _built(Preprocess, pixels, path, "recipe")
    loaders = config.data_loader
    typed = document.overridden("data_loader", "eval", "dataset")
    clips = {key: getattr(views.dataset, key) for key in _VIEWS if key not in typed}
    seen = replace(loaders.eval, dataset=replace(loaders.eval.dataset, **clips), map=views.map)
    # The training loader is not used, and must fit these frames: it sees whole ones.
    whole = Map(tuple(one for one in views.map.operations or () if one.type != "VideoCenterCrop"))
    recorded = replace(
        config,
        data_loader=replace(loaders, train=replace(loaders.train, map=whole), eval=seen),
        preprocess=replace(config.preprocess, **{key: getattr(recipe, key) for key in pixels}),
    )
    if views_of(recorded) != views_of(config) or recorded.preprocess != config.preprocess:
        log.info("frames and clips: as recorded with %s; this configuration has others", path)
    return recorded


def _built(cls: type, values: Any, path: Path, name: str) -> Any:
    """A record as its dataclass, checked as strictly as a configuration."""
    document = Document(None)
    document.values = {name: values}
    try:
        return build(cls, document, name)
    except SettingsError as error:
        first = str(error).splitlines()[0].removeprefix("defaults: ")
        raise UserError(f"{path}: what was recorded with it is damaged: {first}") from None
