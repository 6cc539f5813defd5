"""R(2+1)D and its relatives: residual networks over clips.

Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR 2018, Table 1.  One network
with three kinds of 3x3x3 convolution: R3D uses it unchanged, R(2+1)D splits it into a spatial and a temporal one, MC3
has only the spatial part after the first stage.

Cells have torchvision's names (`layer1.0.conv1.0.0`), so its checkpoints map by a change of suffix (model/weights.py).
There are two versions of R(2+1)D-18: in torchvision and zjut_mindvideo both convolutions of a block have the same
number of mid-planes (31,505,325 parameters with 400 classes); the paper computes it for each (33,370,839).

Shapes: N clips, C channels, T frames, H x W pixels.  The input is (N, 3, T, H, W), normalised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from mindspore import Tensor, nn
from mindspore.common.initializer import HeNormal, Uniform

Triple = tuple[int, int, int]
Kind = Literal["split", "full", "spatial"]
Midplanes = Literal["shared", "paper"]


def mid_planes(in_channels: int, out_channels: int, pixels: int = 3) -> int:
    """Channels between a spatial and a temporal convolution that keep the parameters of a full one.

    The paper's section 3.5: floor(t d^2 N_in N_out / (d^2 N_in + t N_out)) with t = 3 frames and d = `pixels`.
    """
    area = pixels * pixels
    return 3 * area * in_channels * out_channels // (area * in_channels + 3 * out_channels)


def conv(in_channels: int, out_channels: int, kernel: Triple, stride: Triple) -> nn.Conv3d:
    """A convolution over (T, H, W) without bias, padded so that stride 1 keeps the size.

    Its initial weights are those of the paper's code (Caffe2's MSRAFill): normal, variance 2 / (out_channels x kernel
    size).  Every argument is passed by keyword, because MindSpore announces other defaults after 2.9.
    """
    pad_t, pad_h, pad_w = (size // 2 for size in kernel)
    return nn.Conv3d(
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=kernel,
        stride=stride,
        pad_mode="pad",
        padding=(pad_t, pad_t, pad_h, pad_h, pad_w, pad_w),
        dilation=1,
        group=1,
        has_bias=False,
        weight_init=HeNormal(mode="fan_out", nonlinearity="relu"),
        data_format="NCDHW",
    )


def batch_norm(channels: int, eps: float) -> nn.BatchNorm3d:
    """Batch normalisation of (N, C, T, H, W).  MindSpore's momentum 0.9 is PyTorch's 0.1."""
    return nn.BatchNorm3d(
        num_features=channels,
        eps=eps,
        momentum=0.9,
        affine=True,
        gamma_init="ones",
        beta_init="zeros",
        moving_mean_init="zeros",
        moving_var_init="ones",
    )


class Conv2Plus1d(nn.SequentialCell):
    """A 3x3x3 convolution as 1x3x3 in space, batch norm and ReLU, then 3x1x1 in time; or of another size."""

    def __init__(
        self, in_channels: int, out_channels: int, mid_channels: int, stride: Triple, bn_eps: float, size: int = 3
    ) -> None:
        stride_t, stride_h, stride_w = stride
        super().__init__(
            conv(in_channels, mid_channels, (1, size, size), (1, stride_h, stride_w)),
            batch_norm(mid_channels, bn_eps),
            nn.ReLU(),
            conv(mid_channels, out_channels, (size, 1, 1), (stride_t, 1, 1)),
        )


class SpatialMaxPool(nn.Cell):
    """The maximum of 3x3 pixels at every second one, frame by frame; the input is not negative."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, pad_mode="pad", padding=1)

    def construct(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, C, T, H/2, W/2)."""
        n, c, t, h, w = x.shape
        x = self.pool(x.reshape(n, c * t, h, w))
        return x.reshape(n, c, t, x.shape[2], x.shape[3])


class Block(nn.Cell):
    """Two 3x3x3 convolutions, in a bottleneck also a 1x1x1 one that adds channels, and a shortcut around all of them.

    The first convolution and the shortcut have the stride.  The bottleneck is zjut_mindvideo's (its `conv12` and
    `conv3`); torchvision's first reduces the channels with a 1x1x1 convolution.

    Args:
        in_channels: of the input.
        channels: of the two convolutions.
        expansion: the output has `channels` x this many channels; 1 is the basic block.
        stride: over (T, H, W).
        kind: of convolution: `split` (2+1)D, `full` 3x3x3, `spatial` 1x3x3.
        midplanes: of split convolutions: `shared`: both have the number computed from the block's input (torchvision,
            zjut_mindvideo); `paper`: computed for each.
        bn_eps: of every batch norm.
        mmaction2: the shortcut's convolution is split too, and the batch norms within split ones have epsilon 1e-5.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        expansion: int,
        stride: Triple,
        kind: Kind,
        midplanes: Midplanes,
        bn_eps: float,
        mmaction2: bool = False,
    ) -> None:
        super().__init__()
        eps_within = 1e-5 if mmaction2 else bn_eps

        def convolution(inputs: int, step: Triple) -> nn.Cell:
            if kind == "split":
                mid = mid_planes(in_channels if midplanes == "shared" else inputs, channels)
                return Conv2Plus1d(inputs, channels, mid, step, eps_within)
            return conv(inputs, channels, (3, 3, 3) if kind == "full" else (1, 3, 3), step)

        out_channels = channels * expansion
        self.conv1 = nn.SequentialCell(convolution(in_channels, stride), batch_norm(channels, bn_eps), nn.ReLU())
        self.conv2 = nn.SequentialCell(convolution(channels, (1, 1, 1)), batch_norm(channels, bn_eps))
        self.conv3: nn.Cell = nn.Identity()
        if expansion != 1:
            self.conv3 = nn.SequentialCell(
                conv(channels, out_channels, (1, 1, 1), (1, 1, 1)), batch_norm(out_channels, bn_eps)
            )
        self.relu = nn.ReLU()
        self.downsample: nn.Cell = nn.Identity()
        if tuple(stride) != (1, 1, 1) or in_channels != out_channels:
            shortcut: nn.Cell = conv(in_channels, out_channels, (1, 1, 1), stride)
            if mmaction2:
                mid = mid_planes(in_channels, out_channels, 1)
                shortcut = Conv2Plus1d(in_channels, out_channels, mid, stride, eps_within, 1)
            self.downsample = nn.SequentialCell(shortcut, batch_norm(out_channels, bn_eps))

    def construct(self, x: Tensor) -> Tensor:
        """(N, C_in, T, H, W) -> (N, channels x expansion, T/stride, H/stride, W/stride)."""
        return self.relu(self.conv3(self.conv2(self.conv1(x))) + self.downsample(x))


class VideoResNet(nn.Cell):
    """A stem, four stages of blocks, the mean over (T, H, W), a linear layer.

    Args:
        kinds: convolution of each stage.
        num_blocks: of each stage.
        expansion: 1 for basic blocks, 4 for bottlenecks.
        num_classes: number of logits.
        stage_channels: channels of the four stages; the first is also the stem's.
        stage_strides: (T, H, W) stride of each stage's first block; None: the published ones, (1, 1, 1) and then
            (2, 2, 2), or (1, 2, 2) if a stage is spatial.
        midplanes: see Block.
        bn_eps: of every batch norm: 1e-5 in torchvision and zjut_mindvideo, 1e-3 in the paper's Caffe2 code.
        mmaction2: see mmaction2_r2plus1d_34.

    Raises:
        ValueError: a spatial stage has a temporal stride.
    """

    def __init__(
        self,
        kinds: Sequence[Kind],
        num_blocks: Sequence[int],
        expansion: int,
        *,
        num_classes: int = 400,
        stage_channels: Sequence[int] = (64, 128, 256, 512),
        stage_strides: Sequence[Triple] | None = None,
        midplanes: Midplanes = "shared",
        bn_eps: float = 1e-5,
        mmaction2: bool = False,
    ) -> None:
        super().__init__()
        self.bn_eps = bn_eps
        if stage_strides is None:
            stage_strides = [(1, 1, 1)] + [(1, 2, 2) if kind == "spatial" else (2, 2, 2) for kind in kinds[1:]]
        for number, (kind, stride) in enumerate(zip(kinds, stage_strides, strict=True), start=1):
            if kind == "spatial" and stride[0] != 1:
                raise ValueError(
                    f"stage_strides: got {list(stride)} for stage {number}, expected a temporal stride of 1, because "
                    "this stage has no temporal convolution"
                )
        stem = stage_channels[0]
        if kinds[0] == "split":
            mid = max(1, 45 * stem // 64)  # in proportion to the published 45 mid-planes for 64 channels
            if mmaction2:
                mid = mid_planes(3, stem, 7)
            self.stem = nn.SequentialCell(
                conv(3, mid, (1, 7, 7), (1, 2, 2)),  # (N, 45, T, H/2, W/2)
                batch_norm(mid, 1e-5 if mmaction2 else bn_eps),
                nn.ReLU(),
                conv(mid, stem, (3, 1, 1), (1, 1, 1)),  # (N, 64, T, H/2, W/2)
                batch_norm(stem, bn_eps),
                nn.ReLU(),
                *([SpatialMaxPool()] if mmaction2 else []),  # (N, 64, T, H/4, W/4); all later sizes are halved too
            )
        else:
            self.stem = nn.SequentialCell(
                conv(3, stem, (3, 7, 7), (1, 2, 2)),  # (N, 64, T, H/2, W/2)
                batch_norm(stem, bn_eps),
                nn.ReLU(),
            )
        stages, in_channels = [], stem
        for kind, number, channels, stride in zip(kinds, num_blocks, stage_channels, stage_strides, strict=True):
            blocks = []
            for index in range(number):
                blocks.append(
                    Block(
                        in_channels,
                        channels,
                        expansion=expansion,
                        stride=stride if index == 0 else (1, 1, 1),
                        kind=kind,
                        midplanes=midplanes,
                        bn_eps=bn_eps,
                        mmaction2=mmaction2,
                    )
                )
                in_channels = channels * expansion
            stages.append(nn.SequentialCell(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.channels_last = False  # set by model/channels_last.py
        self.fc = nn.Dense(
            in_channels=in_channels,
            out_channels=num_classes,
            weight_init=Uniform(scale=math.sqrt(3 / in_channels)),  # Caffe2's XavierFill, the paper's
            bias_init="zeros",
            has_bias=True,
        )

    def construct(self, x: Tensor, dropout_factors: Tensor | None = None) -> Tensor:
        """Clips (N, 3, T, H, W) float, normalised -> logits (N, num_classes).

        `dropout_factors`, (N, fc.in_channels), is dropout in training: the features are multiplied by it before `fc`.
        """
        if self.channels_last:
            x = x.transpose(0, 2, 3, 4, 1)
        x = self.stem(x)  # (N, 64, T, H/2, W/2)
        x = self.layer1(x)  # (N, 64, T, H/2, W/2)
        x = self.layer2(x)  # (N, 128, T/2, H/4, W/4); spatial stages keep T, bottlenecks have 4 times the channels
        x = self.layer3(x)  # (N, 256, T/4, H/8, W/8)
        x = self.layer4(x)  # (N, 512, T/8, H/16, W/16)
        x = x.mean((1, 2, 3) if self.channels_last else (2, 3, 4))
        return self.fc(x if dropout_factors is None else x * dropout_factors)

    @property
    def stages(self) -> tuple[nn.Cell, ...]:
        """The cells with parameters, in order: stem, layer1 to layer4, fc."""
        return self.stem, self.layer1, self.layer2, self.layer3, self.layer4, self.fc

    def freeze(self, num_stages: int) -> None:
        """Keep the first `num_stages` of `stages` unchanged in training.

        They get no gradient, and their batch norms use the moving statistics.  Must be called before the network runs,
        because MindSpore reads both settings when it compiles.
        """
        for stage in self.stages[:num_stages]:
            for parameter in stage.get_parameters():
                parameter.requires_grad = False
            for _, cell in stage.cells_and_names():
                if isinstance(cell, nn.BatchNorm2d):
                    cell.use_batch_statistics = False


def r2plus1d_18(**options: Any) -> VideoResNet:
    """R(2+1)D-18, the paper's Figure 1e; torchvision's r2plus1d_18, zjut_mindvideo's R2Plus1d18.

    Here and below, options are VideoResNet's keyword arguments.
    """
    return VideoResNet(("split",) * 4, (2, 2, 2, 2), 1, **options)


def r2plus1d_34(**options: Any) -> VideoResNet:
    """R(2+1)D-34, the paper's Table 1."""
    return VideoResNet(("split",) * 4, (3, 4, 6, 3), 1, **options)


def mmaction2_r2plus1d_34(**options: Any) -> VideoResNet:
    """mmaction2's ResNet2Plus1d with depth 34, for clips of 224 x 224; its weights were trained with bn_eps 1e-3.

    It differs from the paper's network: 83 mid-planes in the stem, a max pool after it, and split convolutions in the
    shortcuts.  Batch norms within split convolutions have epsilon 1e-5 whatever bn_eps is; midplanes has no effect.
    """
    return VideoResNet(("split",) * 4, (3, 4, 6, 3), 1, mmaction2=True, **(options | {"midplanes": "paper"}))


def r2plus1d_50(**options: Any) -> VideoResNet:
    """zjut_mindvideo's R2Plus1d50: its stages and bottlenecks.

    Its published class cannot be built: it calls a tuple of activations, and its third convolution expects as many
    channels as there are mid-planes, but the second has `channels`.  Here the third expects `channels`.
    """
    return VideoResNet(("split",) * 4, (3, 4, 6, 3), 4, **options)


def r3d_18(**options: Any) -> VideoResNet:
    """R3D-18, the paper's Table 1; torchvision's r3d_18."""
    return VideoResNet(("full",) * 4, (2, 2, 2, 2), 1, **options)


def r3d_34(**options: Any) -> VideoResNet:
    """R3D-34, the paper's Table 1."""
    return VideoResNet(("full",) * 4, (3, 4, 6, 3), 1, **options)


def mc3_18(**options: Any) -> VideoResNet:
    """MC3-18, torchvision's mc3_18: full convolutions in the stem and stage 1, spatial ones in the other stages."""
    return VideoResNet(("full", "spatial", "spatial", "spatial"), (2, 2, 2, 2), 1, **options)
