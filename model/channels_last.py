"""Changes an R(2+1)D network to layout NTHWC for GPUs: channels last, and every convolution two-dimensional.

cuDNN's tensor cores need channels last.  Without moving a byte, a clip (N, T, H, W, C) is N x T pictures (H, W, C) for
the (1, k, k) convolutions in space, and N pictures (T, H x W, C) for the (k, 1, 1) convolutions in time.  `to_nthwc`
replaces the cells of a network.  The parameters stay the same objects with the same names and shapes, so checkpoints do
not depend on the layout.

Mid-planes (45, 230, 460, 921) are padded to multiples of 8 inside the network: the added planes have gamma 0, so they
and their gradients are always exactly zero.

If channels are last and a multiple of 4, MindSpore joins a batch norm in training and the ReLU directly after it into
one operator, and their gradients into another; so no cell may come between the two.

MindSpore 2.10 has channels-last operators on the GPU only.  On other devices the same cells move the channels to the
front and back, which is slow and used only for comparison.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from model.r2plus1d import Block, SpatialMaxPool, VideoResNet

PLANES = 8
"""Channels that a tensor core processes at a time in float16; mid-planes are padded to a multiple of it."""

FUSE = True
"""Whether a ReLU directly follows its batch norm in float16; in float32 cuDNN has no joint operator."""


class Conv(nn.Cell):
    """An nn.Conv3d over (N, T, H, W, C) whose kernel has one frame or one pixel.

    Args:
        conv: has the weight, (C_out, C_in, k_t, k_h, k_w).
        planes_in: planes of zeros after the channels of the input.
        planes_out: planes of zeros to add after the channels of the output.

    Raises:
        ValueError: a kernel over time also has a size or a stride in space.
    """

    def __init__(self, conv: nn.Conv3d, planes_in: int, planes_out: int) -> None:
        super().__init__(auto_prefix=False)
        size_t, size_h, size_w = conv.kernel_size
        step_t, step_h, step_w = conv.stride
        self.weight = conv.weight
        self.stride, self.planes = conv.stride, (planes_in, planes_out)
        self.in_time = size_t > 1
        if self.in_time and (size_h, size_w, step_h, step_w) != (1, 1, 1, 1):
            raise ValueError(f"a kernel of {conv.kernel_size} and a stride of {conv.stride} is not two-dimensional")
        self.frame_step = 1 if self.in_time else step_t
        kernel, stride = ((size_t, 1), (step_t, 1)) if self.in_time else ((size_h, size_w), (step_h, step_w))
        pad_t, pad_h, pad_w = (size // 2 for size in conv.kernel_size)
        self.kernel_shape = (conv.out_channels, conv.in_channels, *kernel)
        self.zeros = ops.Pad(((0, planes_out), (0, planes_in), (0, 0), (0, 0)))
        self.pads = planes_in + planes_out > 0
        self.channels_last = ms.get_context("device_target") == "GPU"
        self.conv2d = ops.Conv2D(
            out_channel=conv.out_channels + planes_out,
            kernel_size=kernel,
            pad_mode="pad",
            pad=(pad_t, pad_t, 0, 0) if self.in_time else (pad_h, pad_h, pad_w, pad_w),
            stride=stride,
            data_format="NHWC" if self.channels_last else "NCHW",
        )

    def construct(self, x: Tensor) -> Tensor:
        """(N, T, H, W, C_in) -> (N, T', H', W', C_out)."""
        n, t, h, w, c = x.shape
        if self.frame_step > 1:
            x, t = self._every_frame_step(x), -(-t // self.frame_step)
        weight = self.weight.reshape(self.kernel_shape)
        if self.pads:
            weight = self.zeros(weight)
        pictures = x.reshape(n, t, h * w, c) if self.in_time else x.reshape(n * t, h, w, c)
        if self.channels_last:
            out = self.conv2d(pictures, weight.transpose(0, 2, 3, 1))
        else:
            out = self.conv2d(pictures.transpose(0, 3, 1, 2), weight).transpose(0, 2, 3, 1)
        if self.in_time:
            return out.reshape(n, -1, h, w, out.shape[3])
        return out.reshape(n, t, out.shape[1], out.shape[2], out.shape[3])

    def extend_repr(self) -> str:
        """The options of this cell, which are part of the compile cache's key."""
        return f"{tuple(self.weight.shape)}, stride={self.stride}, planes={self.planes}"

    def _every_frame_step(self, x: Tensor) -> Tensor:
        """Every `frame_step`-th frame, cut as the first part of rows of `frame_step` frames.

        MindSpore 2.10's gradient of `x[:, ::2]` fails on the CPU (StridedSliceGrad: memory out of bounds).
        """
        n, t, h, w, c = x.shape
        kept = -(-t // self.frame_step)
        if t % self.frame_step:
            x = ops.concat((x, ops.zeros((n, kept * self.frame_step - t, h, w, c), x.dtype)), 1)
        return ops.slice(x.reshape(n, kept, self.frame_step * h * w * c), (0, 0, 0), (n, kept, h * w * c))


class BatchNorm(nn.Cell):
    """An nn.BatchNorm3d over (N, T, H, W, C), and the ReLU after it.

    Args:
        norm: has the parameters and statistics, in its `bn2d`.
        planes: planes of zeros after its channels.
        relu: whether a ReLU follows, which this cell then computes.
    """

    def __init__(self, norm: nn.BatchNorm3d, planes: int, relu: bool) -> None:
        super().__init__(auto_prefix=False)
        self.bn2d = norm.bn2d
        self.relu = ops.ReLU() if relu else None
        self.fuse = FUSE
        self.channels_last = ms.get_context("device_target") == "GPU"
        options = {"epsilon": norm.bn2d.eps, "data_format": "NHWC" if self.channels_last else "NCHW"}
        self.in_training = ops.BatchNorm(is_training=True, momentum=norm.bn2d.momentum, **options)
        self.in_evaluation = ops.BatchNorm(is_training=False, **options)
        self.zeros, self.pads, self.channels = ops.Pad(((0, planes),)), planes > 0, norm.bn2d.num_features
        if self.pads:  # the operator needs statistics of the padded width; checkpoints hold those without padding
            wide = self.channels + planes
            mean, variance = f"{norm.bn2d.moving_mean.name}.wide", f"{norm.bn2d.moving_variance.name}.wide"
            self.wide_mean = Parameter(initializer("zeros", wide), name=mean, requires_grad=False)
            self.wide_variance = Parameter(initializer("ones", wide), name=variance, requires_grad=False)

    def construct(self, x: Tensor) -> Tensor:
        """(N, T, H, W, C) -> the same shape."""
        n, t, h, w, c = x.shape
        x = x.reshape(n * t, h, w, c) if self.channels_last else x.reshape(-1, c, 1, 1)
        x = self._padded(x) if self.pads else self._plain(x)
        if self.relu is None:
            return x.reshape(n, t, h, w, c)
        if self.fuse and x.dtype == ms.float16:
            return self.relu(x).reshape(n, t, h, w, c)
        return self.relu(x.reshape(n, t, h, w, c))

    def extend_repr(self) -> str:
        """The options of this cell, which are part of the compile cache's key."""
        return f"relu={self.relu is not None}, fuse={self.fuse}"

    def _plain(self, x: Tensor) -> Tensor:
        norm = self.bn2d
        if self.training and norm.use_batch_statistics is None:
            return self.in_training(x, norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)[0]
        return self.in_evaluation(x, norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)[0]

    def _padded(self, x: Tensor) -> Tensor:
        norm = self.bn2d
        gamma, beta = self.zeros(norm.gamma), self.zeros(norm.beta)
        ops.assign(self.wide_mean, self.zeros(norm.moving_mean))
        ops.assign(self.wide_variance, self.zeros(norm.moving_variance))
        if self.training and norm.use_batch_statistics is None:
            x = self.in_training(x, gamma, beta, self.wide_mean, self.wide_variance)[0]
            # MindSpore 2.10's graphs do not know that a batch norm writes: without `depend` they read the old values.
            ops.assign(norm.moving_mean, ops.depend(self.wide_mean, x)[: self.channels])
            ops.assign(norm.moving_variance, ops.depend(self.wide_variance, x)[: self.channels])
            return x
        return self.in_evaluation(x, gamma, beta, self.wide_mean, self.wide_variance)[0]


def to_nthwc(network: VideoResNet) -> None:
    """Replace the cells of a network by those of layout NTHWC, in place; its input is still (N, C, T, H, W).

    Raises:
        ValueError: it has a convolution over time and space at once (R3D, MC3), or a max pool (mmaction2's R(2+1)D).
    """
    stages = network.stages[:-1]
    for stage in stages:
        for _, cell in stage.cells_and_names():
            if isinstance(cell, nn.Conv3d) and cell.kernel_size[0] > 1 and cell.kernel_size[1] > 1:
                raise ValueError(
                    "layout NTHWC needs (1, k, k) and (k, 1, 1) convolutions only, as in R(2+1)D. Use layout NCTHW."
                )
            if isinstance(cell, SpatialMaxPool):
                raise ValueError("layout NTHWC has no max pool. Use layout NCTHW.")
    for stage in stages:
        _replace(stage)
    network.channels_last = True


def _replace(cell: nn.Cell) -> None:
    if isinstance(cell, Block):
        for part in (cell.conv1, cell.conv2, cell.conv3, cell.downsample):
            _replace(part)
    if not isinstance(cell, nn.SequentialCell):
        return
    planes = 0  # planes of zeros after the channels, from one convolution of this cell to the next
    last = max((index for index, part in enumerate(cell) if isinstance(part, nn.Conv3d)), default=0)
    for index, part in enumerate(cell):
        if isinstance(part, nn.Conv3d):
            before, planes = planes, -part.out_channels % PLANES if index < last else 0
            cell[index] = Conv(part, before, planes)
        elif isinstance(part, nn.BatchNorm3d):
            relu = index + 1 < len(cell) and isinstance(cell[index + 1], nn.ReLU)
            cell[index] = BatchNorm(part, planes, relu)
            if relu:
                cell[index + 1] = nn.Identity()
        else:
            _replace(part)
