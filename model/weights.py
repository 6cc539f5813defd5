"""Maps parameter names between this project, torchvision, zjut_mindvideo and mmaction2, and loads weights strictly.

Cells have torchvision's names, so only the last parts differ: MindSpore keeps a BatchNorm3d's parameters in an inner
`bn2d` as gamma, beta, moving_mean and moving_variance.  zjut_mindvideo has the same last parts but other cells,
mmaction2 torchvision's last parts and other modules.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from mindspore import Parameter, Tensor, nn
from numpy.typing import NDArray

from model.r2plus1d import mid_planes

Head = Literal["same", "new"]
Shape = tuple[int, ...]

_SHOWN = 5  # problems in the text of an error
_FLOATS = {"float16", "bfloat16", "float32", "float64"}  # what `assign` takes

_BATCH_NORM = {
    "bn2d.gamma": "weight",
    "bn2d.beta": "bias",
    "bn2d.moving_mean": "running_mean",
    "bn2d.moving_variance": "running_var",
}
# Our cells and zjut_mindvideo's; the first match is used.  `1` and `2` number the two convolutions of a block.
_ZJUT = (
    (r"stem\.(.+)", r"conv1.\1"),
    (r"fc\.(.+)", r"classifier.\1"),
    (r"(layer\d\.\d+)\.conv([12])\.0\.3\.(.+)", r"\1.conv12.conv\2_1.features.0.\3"),
    (r"(layer\d\.\d+)\.conv([12])\.0\.(.+)", r"\1.conv12.conv\2_0.features.\3"),
    (r"(layer\d\.\d+)\.conv([12])\.1\.(.+)", r"\1.conv12.conv\2_1.features.1.\3"),
    (r"(layer\d\.\d+)\.conv3\.(.+)", r"\1.conv3.features.\2"),
    (r"(layer\d\.\d+)\.downsample\.(.+)", r"\1.down_sample.features.\2"),
)
# Our cells and mmaction2's, whose modules hold `conv` (in it `conv_s`, `bn_s` and `conv_t`) and `bn`.
_MMACTION2 = (
    (r"stem\.0\.(.+)", r"backbone.conv1.conv.conv_s.\1"),
    (r"stem\.1\.(.+)", r"backbone.conv1.conv.bn_s.\1"),
    (r"stem\.3\.(.+)", r"backbone.conv1.conv.conv_t.\1"),
    (r"stem\.4\.(.+)", r"backbone.conv1.bn.\1"),
    (r"(layer\d\.\d+\.(?:conv[12]|downsample))\.0\.0\.(.+)", r"backbone.\1.conv.conv_s.\2"),
    (r"(layer\d\.\d+\.(?:conv[12]|downsample))\.0\.1\.(.+)", r"backbone.\1.conv.bn_s.\2"),
    (r"(layer\d\.\d+\.(?:conv[12]|downsample))\.0\.3\.(.+)", r"backbone.\1.conv.conv_t.\2"),
    (r"(layer\d\.\d+\.(?:conv[12]|downsample))\.1\.(.+)", r"backbone.\1.bn.\2"),
    (r"fc\.(.+)", r"cls_head.fc_cls.\1"),
)
# Entries of a checkpoint that are not the network's: PyTorch's batch counters, MindSpore's optimizer.
_NOT_THE_NETWORKS = re.compile(
    r".*\.num_batches_tracked|n_averaged|moments\..+|learning_rate|momentum|global_step|epoch_num|step_num"
)


class WeightsError(ValueError):
    """Weights that do not fit the network; none of them was loaded.

    Attributes:
        problems: one line for each name that is missing, unexpected, of another shape or corrupted.
    """

    def __init__(self, message: str, problems: Sequence[str]) -> None:
        more = len(problems) - _SHOWN
        super().__init__(f"{message}: {'; '.join(problems[:_SHOWN])}" + (f"; and {more} more" if more > 0 else ""))
        self.problems = tuple(problems)


def torchvision_name(name: str) -> str:
    """`stem.1.bn2d.gamma` -> `stem.1.weight`; names without a batch norm are the same in both."""
    for ours, theirs in _BATCH_NORM.items():
        if name.endswith(ours):
            return name.removesuffix(ours) + theirs
    return name


def zjut_name(name: str) -> str:
    """`layer1.0.conv1.0.0.weight` -> `layer1.0.conv12.conv1_0.features.0.weight`, zjut_mindvideo's name."""
    return _replaced(name, _ZJUT)


def mmaction2_name(name: str) -> str:
    """`layer1.0.conv1.0.0.weight` -> `backbone.layer1.0.conv1.conv.conv_s.weight`, mmaction2's name of R(2+1)D."""
    return _replaced(torchvision_name(name), _MMACTION2)


def _replaced(name: str, table: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in table:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


NAMINGS: dict[str, Callable[[str], str]] = {
    "this project's": lambda name: name,
    "torchvision's": torchvision_name,
    "zjut_mindvideo's": zjut_name,
    "mmaction2's": mmaction2_name,
}


def parameters(network: nn.Cell) -> dict[str, Parameter]:
    """Every weight and buffer of a network by its path in the network, in order.

    `Parameter.name` is not this path: MindSpore adds a prefix when the network is put into another cell.
    `wide_...`, which model/channels_last.py needs within a step, is not included.
    """
    return {name: parameter for name, parameter in network.parameters_and_names() if ".wide_" not in name}


def to_own_names(network: nn.Cell, weights: Mapping[str, NDArray]) -> tuple[dict[str, NDArray], str, list[str]]:
    """Weights under `network`'s own names.

    Args:
        network: has the names to map to.
        weights: arrays by the names in their file, in any of NAMINGS; before each of them may be the same prefix, such
            as `module.`, `_orig_mod.` or `backbone.`.

    Returns:
        The arrays, where a name that the network does not have is unchanged; the naming of NAMINGS and the prefix that
        fit most of them, for a log; and the names that were left out because they never belong to a network.  If the
        file has a parameter in two namings, the result has it twice, the second time under a name that no network has.
    """
    names = list(parameters(network))
    best: dict[str, str] = {}
    described = ""
    for naming, their in NAMINGS.items():
        own = {their(name): name for name in names}
        anchors = list(own)[:3]
        prefixes = {name.removesuffix(anchor) for anchor in anchors for name in weights if name.endswith(f".{anchor}")}
        for prefix in ["", *sorted(prefixes, key=lambda prefix: (len(prefix), prefix))]:
            matching = {prefix + name: mine for name, mine in own.items() if prefix + name in weights}
            if len(matching) > len(best) or not described:
                best = matching
                described = naming + (f" names after {prefix!r}" if prefix else " names")
                start = prefix
    left_out = [name for name in weights if _NOT_THE_NETWORKS.fullmatch(name.removeprefix(start))]
    named = {best[name]: array for name, array in weights.items() if name in best}
    for name, array in weights.items():
        if name not in best and name not in left_out:
            name = name.removeprefix(start)
            named[f"{name} (once more)" if name in named else name] = array
    return named, described, left_out


def assign(network: nn.Cell, weights: Mapping[str, NDArray], *, source: str, head: Head = "same") -> None:
    """Set every parameter of `network`, all or none.

    Args:
        network: gets the weights.
        weights: arrays by the network's own parameter names.
        source: their file, for the error message.
        head: `new` leaves the last layer, `fc`, unchanged and ignores the weights for it.

    Raises:
        WeightsError: a name is missing, unexpected or of another shape, or a value is no finite float; the
            network is unchanged.
    """
    wanted = parameters(network)
    if head == "new":
        wanted = {name: parameter for name, parameter in wanted.items() if not name.startswith("fc.")}
        weights = {name: array for name, array in weights.items() if not name.startswith("fc.")}
    problems = [f"missing {name} {tuple(wanted[name].shape)}" for name in wanted if name not in weights]
    problems += [f"unexpected {name} {tuple(weights[name].shape)}" for name in weights if name not in wanted]
    problems += [
        f"{name}: got {tuple(weights[name].shape)}, expected {tuple(parameter.shape)}"
        for name, parameter in wanted.items()
        if name in weights and tuple(weights[name].shape) != tuple(parameter.shape)
    ]
    if problems:
        count = f"{len(problems)} error{'s' if len(problems) > 1 else ''}"
        shapes = {name: tuple(array.shape) for name, array in weights.items()}
        causes = likely_causes({name: tuple(parameter.shape) for name, parameter in wanted.items()}, shapes)
        hint = f". Likely cause: {'; '.join(causes)}" if causes else ""
        raise WeightsError(f"{source} does not fit this network{hint} ({count})", problems)
    problems = [
        f"{name} holds {weights[name].dtype}, expected float32"
        for name in wanted
        if weights[name].dtype.name not in _FLOATS
    ]
    if problems:
        raise WeightsError(f"{source} holds other numbers than floats ({len(problems)} of {len(wanted)})", problems)
    problems = [problem for name in wanted if (problem := _bad_values(name, weights[name]))]
    if problems:
        raise WeightsError(f"{source} is corrupted ({len(problems)} of {len(wanted)} parameters)", problems)
    for name, parameter in wanted.items():
        parameter.set_data(Tensor(np.ascontiguousarray(weights[name], dtype=np.float32)))


def other_floats(network: nn.Cell, weights: Mapping[str, NDArray], head: Head = "same") -> str:
    """How many of the arrays that `assign` takes are of floats other than float32, by type; empty for none."""
    counts = Counter(
        weights[name].dtype.name
        for name in parameters(network)
        if name in weights and weights[name].dtype != np.float32 and not (head == "new" and name.startswith("fc."))
    )
    return ", ".join(f"{count} arrays are {kind}" for kind, count in sorted(counts.items()))


def _bad_values(name: str, array: NDArray) -> str:
    """Why an array cannot come from training, in one line, or an empty string; finds many flipped bits."""
    if array.dtype.name == "bfloat16":  # numpy cannot compare them
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        return f"{name} holds values that are not finite"
    if array.dtype == np.float64 and array.size and np.abs(array).max() > np.finfo(np.float32).max:
        return f"{name} holds values that are too large for float32"
    if name.endswith("moving_variance") and array.size and array.min() < 0:
        return f"{name} holds a negative variance"
    return ""


_TYPES = {
    ("R2Plus1d", (2, 2, 2, 2), False): "R2Plus1d18",
    ("R2Plus1d", (3, 4, 6, 3), False): "R2Plus1d34",
    ("R2Plus1d", (3, 4, 6, 3), True): "R2Plus1d50",
    ("R3d", (2, 2, 2, 2), False): "R3d18",
    ("R3d", (3, 4, 6, 3), False): "R3d34",
    ("MC3d", (2, 2, 2, 2), False): "MC3d18",
}
_OTHER_PROGRAMS = (
    (
        r"(.+\.)?blocks\.\d+\.(res_blocks\..+|conv\..+)",
        "this is a network of PyTorchVideo, whose R(2+1)D has bottleneck blocks that no model.type here has",
    ),
)


def likely_causes(wanted: Mapping[str, Shape], given: Mapping[str, Shape]) -> list[str]:
    """Why weights do not fit, and what to set: what the shapes tell of both networks is compared.

    Args:
        wanted: the network's shapes by its own names; without `fc` if the last layer is not read.
        given: the file's, as `to_own_names` gives them.
    """
    for pattern, cause in _OTHER_PROGRAMS:
        if any(re.fullmatch(pattern, name) for name in given):
            return [cause]
    theirs, ours = ("layer2.0.downsample.0.0.weight" in names for names in (given, wanted))
    if theirs or any(name.endswith("layer2.0.downsample.conv.conv_s.weight") for name in given):
        if not ours:
            return ["this is mmaction2's R(2+1)D: set model.type to MMAction2R2Plus1d34 and model.bn_eps to 1e-3"]
    elif ours:
        return ["model.type is mmaction2's R(2+1)D, and the file is not: set another model.type"]
    here, there = _traits(wanted), _traits(given)
    kinds = ("convolutions", "blocks", "bottleneck")
    network = _TYPES.get(tuple(there[key] for key in kinds))  # type: ignore[call-overload]
    if given and not network and all(wanted.get(name) == shape for name, shape in given.items()):
        only = f"the file has only {len(given)} of the network's {len(wanted)} parameters"
        return [f"{only}: the others may be in other files, such as model-00002-of-00002; convert one file with all"]
    known = wanted.keys() & given.keys()
    if len(known) < len(wanted) // 10:
        example = next((name for name in given if name not in wanted), "none")
        return [f"its names are those of another network: got {example!r}, expected {next(iter(wanted))!r}"]
    if prefix := _second_prefix(wanted, given):
        return [f"some of its names begin with {prefix!r} and others do not"]
    causes = []
    if here["classes"] and not there["classes"]:
        causes.append("the file has no last layer: set train.head to new to train your own")
    if any(there[key] not in ("", here[key]) for key in kinds):
        causes.append(f"the file has {_blocks(there)}, this network {_blocks(here)}")
        causes[-1] += f": set model.type to {network}" if network else ""
    if here["channels"] != there["channels"] and all(there["channels"]):
        causes.append(
            f"its stages have {there['channels']} channels, here {here['channels']}: set model.stage_channels to "
            f"{list(there['channels'])}"
        )
    elif there["midplanes"] not in ("", here["midplanes"] or "shared"):  # a network without any has the default
        causes.append(f"it has the other mid-planes: set model.midplanes to {there['midplanes']}")
    same = ("channels", "bottleneck")  # bottlenecks always have a shortcut convolution there
    if here["shortcut"] != there["shortcut"] and all(here[key] == there[key] for key in same):
        causes.append(
            "its stage 1 has a stride, because its first block has a shortcut convolution: set model.stage_strides"
            if there["shortcut"]
            else "its stage 1 has stride [1, 1, 1], because its first block has no shortcut convolution: set "
            "model.stage_strides"
        )
    if here["classes"] and there["classes"] and here["classes"] != there["classes"]:
        only = "" if causes else "only the classes differ: "
        causes.append(
            f"{only}the file has {there['classes']}, this network {here['classes']}: set model.num_classes to "
            f"{there['classes']}, or train.head to new to train your own"
        )
    return causes


def _blocks(traits: dict[str, Any]) -> str:
    bottlenecks = " with bottlenecks" if traits["bottleneck"] else ""
    return f"{traits['convolutions']}'s convolutions in {'+'.join(map(str, traits['blocks']))} blocks{bottlenecks}"


def _traits(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """What the shapes of weights tell of their network; a trait that they do not tell is empty."""

    def first(name: str) -> int:
        return shapes[name][0] if shapes.get(name) else 0

    numbered = {match.groups() for name in shapes if (match := re.search(r"(?:^|\.)layer([1-4])\.(\d+)\.", name))}
    blocks = tuple(sum(stage == f"{at}" for stage, _ in numbered) for at in range(1, 5))
    channels = tuple(first(f"layer{at}.0.conv2.1.bn2d.gamma") for at in range(1, 5))
    bottleneck = any(name.startswith("layer1.0.conv3.") for name in shapes)
    kernel = shapes.get("layer2.0.conv1.0.weight", ())
    kind = "R3d" if kernel[2:3] == (3,) else "MC3d" if kernel else ""
    kind = "R2Plus1d" if any(re.fullmatch(r"layer\d\.\d+\.conv\d\.0\.0\.weight", name) for name in shapes) else kind
    midplanes = ""
    for at, (before, now) in enumerate(zip(channels, channels[1:], strict=False), start=2):
        planes = first(f"layer{at}.0.conv2.0.0.weight")
        if not (before and now and planes):
            continue
        rules = {"shared": mid_planes(before * (4 if bottleneck else 1), now), "paper": mid_planes(now, now)}
        if rules["shared"] != rules["paper"]:
            midplanes = next((rule for rule, number in rules.items() if number == planes), midplanes)
    return {
        "convolutions": kind,
        "blocks": blocks,
        "bottleneck": bottleneck,
        "channels": channels,
        "midplanes": midplanes,
        "shortcut": any(name.startswith("layer1.0.downsample.") for name in shapes),
        "classes": first("fc.weight"),
    }


def _second_prefix(wanted: Mapping[str, Shape], given: Mapping[str, Shape]) -> str:
    """What stands before an unexpected name that would otherwise fit; empty if there is none."""
    endings = {torchvision_name(name) for name in wanted} | set(wanted)
    for name in given:
        parts = name.split(".")
        for at in range(1, len(parts)):
            if ".".join(parts[at:]) in endings and name not in wanted:
                return ".".join(parts[:at]) + "."
    return ""
