"""R(2+1)D: residual networks whose 3-D convolutions are split into a spatial and a temporal one.

Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR 2018.  Cells carry
torchvision's names (`layer1.0.conv1.0.0`), so that its checkpoints map by a change of suffix (model/weights.py);
as there, and as in the seed, both convolutions of a block share one number of mid-planes: 31,505,325 parameters
with 400 classes.  (The paper's own network counts them per convolution: 33,370,839.)

Shapes: N clips, C channels, T frames, H x W pixels.  A clip enters as (N, 3, T, H, W), normalised.
"""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import Tensor, nn
from mindspore.common.initializer import HeNormal, Normal

Triple = tuple[int, int, int]


def mid_planes(in_channels: int, out_channels: int) -> int:
    """Channels between a spatial and a temporal convolution that keep the parameters of a full 3x3x3 one.

    The paper's section 3.5: floor(t d^2 N_in N_out / (d^2 N_in + t N_out)) with t = d = 3.
    """
    return 27 * in_channels * out_channels // (9 * in_channels + 3 * out_channels)


def conv(in_channels: int, out_channels: int, kernel: Triple, stride: Triple) -> nn.Conv3d:
    """A convolution over (T, H, W) without bias, padded so that stride 1 keeps the size.

    Every argument is given by keyword: MindSpore announces other defaults after 2.9.
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


def batch_norm(channels: int) -> nn.BatchNorm3d:
    """Batch normalisation of (N, C, T, H, W).  MindSpore's momentum 0.9 is PyTorch's 0.1."""
    return nn.BatchNorm3d(
        num_features=channels,
        eps=1e-5,
        momentum=0.9,
        affine=True,
        gamma_init="ones",
        beta_init="zeros",
        moving_mean_init="zeros",
        moving_var_init="ones",
    )


class Conv2Plus1d(nn.SequentialCell):
    """A 3x3x3 convolution as 1x3x3 in space, batch norm and ReLU, then 3x1x1 in time."""

    def __init__(self, in_channels: int, out_channels: int, mid_channels: int, stride: Triple) -> None:
        stride_t, stride_h, stride_w = stride
        super().__init__(
            conv(in_channels, mid_channels, (1, 3, 3), (1, stride_h, stride_w)),
            batch_norm(mid_channels),
            nn.ReLU(),
            conv(mid_channels, out_channels, (3, 1, 1), (stride_t, 1, 1)),
        )


class BasicBlock(nn.Cell):
    """Two (2+1)D convolutions and a shortcut; the first convolution and the shortcut carry the stride."""

    def __init__(self, in_channels: int, out_channels: int, stride: Triple) -> None:
        super().__init__()
        mid = mid_planes(in_channels, out_channels)
        self.conv1 = nn.SequentialCell(
            Conv2Plus1d(in_channels, out_channels, mid, stride), batch_norm(out_channels), nn.ReLU()
        )
        self.conv2 = nn.SequentialCell(
            Conv2Plus1d(out_channels, out_channels, mid, (1, 1, 1)), batch_norm(out_channels)
        )
        self.relu = nn.ReLU()
        self.downsample: nn.Cell = nn.Identity()
        if tuple(stride) != (1, 1, 1) or in_channels != out_channels:
            self.downsample = nn.SequentialCell(
                conv(in_channels, out_channels, (1, 1, 1), stride), batch_norm(out_channels)
            )

    def construct(self, x: Tensor) -> Tensor:
        """(N, C_in, T, H, W) -> (N, C_out, T/stride, H/stride, W/stride)."""
        return self.relu(self.conv2(self.conv1(x)) + self.downsample(x))


class R2Plus1d(nn.Cell):
    """R(2+1)D-18: a stem, four stages of two basic blocks, the mean over (T, H, W), a linear layer.

    Args:
        num_classes: number of logits.
        stage_channels: output channels of the four stages; the first is also the stem's.
        stage_strides: (T, H, W) stride of each stage's first block.
    """

    def __init__(
        self,
        num_classes: int = 400,
        stage_channels: Sequence[int] = (64, 128, 256, 512),
        stage_strides: Sequence[Triple] = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
    ) -> None:
        super().__init__()
        stem = stage_channels[0]
        stem_mid = max(1, 45 * stem // 64)  # torchvision's 45 mid-planes before 64 channels, in proportion
        self.stem = nn.SequentialCell(
            conv(3, stem_mid, (1, 7, 7), (1, 2, 2)),  # (N, 45, T, H/2, W/2)
            batch_norm(stem_mid),
            nn.ReLU(),
            conv(stem_mid, stem, (3, 1, 1), (1, 1, 1)),  # (N, 64, T, H/2, W/2)
            batch_norm(stem),
            nn.ReLU(),
        )
        inputs = [stem, *stage_channels[:-1]]
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.SequentialCell(BasicBlock(before, channels, stride), BasicBlock(channels, channels, (1, 1, 1)))
            for before, channels, stride in zip(inputs, stage_channels, stage_strides, strict=True)
        )
        self.fc = nn.Dense(
            in_channels=stage_channels[-1],
            out_channels=num_classes,
            weight_init=Normal(sigma=0.01, mean=0.0),
            bias_init="zeros",
            has_bias=True,
        )

    def construct(self, x: Tensor) -> Tensor:
        """Clips (N, 3, T, H, W) float, normalised -> logits (N, num_classes)."""
        x = self.stem(x)  # (N, 64, T, H/2, W/2)
        x = self.layer1(x)  # (N, 64, T, H/2, W/2)
        x = self.layer2(x)  # (N, 128, T/2, H/4, W/4)
        x = self.layer3(x)  # (N, 256, T/4, H/8, W/8)
        x = self.layer4(x)  # (N, 512, T/8, H/16, W/16)
        return self.fc(x.mean((2, 3, 4)))
