"""The online stage's settings: one frozen dataclass for each section of the experiment file.

The sections and keys are those of zjut_mindvideo's r2plus1d18.yaml, which loads as it is printed there, and a few
more; ranges live in the annotations.  `load_config` in load.py reads a file, checks it, and warns by name of every key
that is given and has no effect here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from pipeline.common import recipe
from pipeline.common.errors import UserError
from pipeline.common.value_types import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PathText,
    PositiveFloat,
    PositiveInt,
    Range,
)
from train.experiment.transforms import Map, Transforms, standard_map

Device = Literal["auto", "CPU", "GPU", "Ascend"]
Triple = tuple[PositiveInt, PositiveInt, PositiveInt]


@dataclass(frozen=True)
class Context:
    """MindSpore's execution context.

    Attributes:
        mode: 0 compiles graphs, 1 runs operator by operator (pynative).
        device_target: zjut_mindvideo's place for the key `device_target`, which it must not contradict.
        save_graphs: write the graphs that MindSpore compiles, to find errors in them.
        device_id: number of the card on this machine, from 0.
    """

    mode: Literal[0, 1] = 0
    device_target: Device | None = None
    save_graphs: bool = False
    device_id: NonNegativeInt = 0


@dataclass(frozen=True)
class Model:
    """The network; see model/r2plus1d.py.

    Attributes:
        type: which network.
        stage_channels: of its four stages.
        stage_strides: (T, H, W) of its four stages; null: the published ones of the type.
        num_classes: logits of the last layer; `auto`: the ledgers' highest label_id + 1.
        midplanes: of R(2+1)D: `shared` as in torchvision and zjut_mindvideo, or the `paper`'s.
        bn_eps: of batch norms; the paper's code has 1e-3.
        dropout: fraction of the features dropped before the last layer.
        freeze_stages: how many of stem, layer1 to layer4 keep their weights and statistics in training.
        layout: what is computed in, never what is saved: NCTHW with 3-D convolutions, or NTHWC with 2-D ones
            (model/channels_last.py).  auto: NTHWC for R(2+1)D on a GPU, else NCTHW.
    """

    type: Literal["R2Plus1d18", "R2Plus1d34", "R2Plus1d50", "R3d18", "R3d34", "MC3d18"] = "R2Plus1d18"
    stage_channels: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (64, 128, 256, 512)
    stage_strides: tuple[Triple, Triple, Triple, Triple] | None = None
    num_classes: Annotated[int, Range(min=2)] | Literal["auto"] = 400
    midplanes: Literal["shared", "paper"] = "shared"
    bn_eps: PositiveFloat = 1e-5
    dropout: Annotated[float, Range(min=0, max=0.99)] = 0.0
    freeze_stages: Annotated[int, Range(min=0, max=5)] = 0
    layout: Literal["auto", "NCTHW", "NTHWC"] = "auto"

    @property
    def classes(self) -> int:
        """`num_classes` as a number.

        Raises:
            UserError: it is `auto`; commands replace that first (load.with_num_classes).
        """
        if self.num_classes == "auto":
            raise UserError("model.num_classes: got auto, expected a number here; give --model.num_classes=N")
        return self.num_classes


@dataclass(frozen=True)
class LearningRate:
    """The learning rate of each step; `train.epochs` and the dataset decide how many steps there are.

    Attributes:
        lr_scheduler: how the rate falls after the warm-up.
        lr: the highest, after the warm-up.
        lr_batch_size: the clips a step that `lr` is meant for; with more or fewer it is scaled in proportion
            (Goyal et al. 2017).  null: `lr` as it stands.
        lr_epochs: step: one number, the epochs between two falls; multi_step: the epochs at whose start it falls.
        steps_per_epoch: has no effect; the dataset decides it.
        lr_gamma: what step and multi_step multiply by at each fall.
        eta_min: where the cosine ends, at most the highest rate.
        t_max: has no effect; `train.epochs` is the schedule's length.
        max_epoch: has no effect; `train.epochs` is the schedule's length.
        warmup_epochs: epochs in which the rate rises to `lr`.
        warmup_start: the fraction of `lr` that the warm-up's first step has; `lr` is then reached in the step after
            the warm-up, as in torchvision.  null: the warm-up rises by equal parts from 0 and reaches `lr` in its last
            step, as in zjut_mindvideo.
    """

    lr_scheduler: Literal["cosine_annealing", "step", "multi_step", "constant"] = "cosine_annealing"
    lr: PositiveFloat = 0.012
    lr_batch_size: PositiveInt | None = None
    lr_epochs: tuple[PositiveInt, ...] = ()
    steps_per_epoch: PositiveInt | None = None
    lr_gamma: PositiveFloat | None = None
    eta_min: NonNegativeFloat = 0.0
    t_max: PositiveInt | None = None
    max_epoch: PositiveInt | None = None
    warmup_epochs: NonNegativeFloat = 0.0
    warmup_start: Fraction | None = None

    def __post_init__(self) -> None:
        falls = list(self.lr_epochs)
        if self.lr_scheduler in ("step", "multi_step") and (self.lr_gamma is None or not falls):
            raise ValueError(f"lr_scheduler {self.lr_scheduler} needs lr_epochs and lr_gamma")
        if self.lr_scheduler == "step" and len(falls) != 1:
            raise ValueError(f"lr_epochs: got {falls}; step takes one number, the epochs between two falls")
        cosine = self.lr_scheduler == "cosine_annealing"
        if cosine and self.lr_batch_size is None and self.eta_min > self.lr:
            raise ValueError(f"eta_min: got {self.eta_min:g}, expected at most lr, {self.lr:g}: the rate only falls")
        if falls != sorted(set(falls)):
            raise ValueError(f"lr_epochs: got {falls}, expected rising epochs")


@dataclass(frozen=True)
class Optimizer:
    """Momentum SGD; weight decay applies to every trainable parameter, as in zjut_mindvideo and torchvision.

    Attributes:
        type: the method.
        momentum: share of the last step that is added to the next.
        weight_decay: times the weights, added to their gradients.
        loss_scale: a number, or `dynamic`: halved when gradients overflow, doubled after 2,000 steps without.
        clip_norm: gradients with a larger norm, taken over all of them, are scaled down to it.  null: never.
        ema_decay: of the exponential moving average of the weights, which is then what is evaluated and saved
            (0.999: the last thousand steps).  null: no average.
        layer_lr_decay: the learning rate of layer4 is the head's times this, layer3's times its square, and so on.
    """

    type: Literal["Momentum"] = "Momentum"
    momentum: Fraction = 0.9
    weight_decay: NonNegativeFloat = 0.0004
    loss_scale: PositiveFloat | Literal["dynamic"] = 1.0
    layer_lr_decay: Annotated[float, Range(min=0, max=1, above=True)] = 1.0
    clip_norm: PositiveFloat | None = None
    ema_decay: Fraction | None = None


@dataclass(frozen=True)
class Loss:
    """Softmax cross-entropy with integer labels, averaged over the batch.

    Attributes:
        type: the loss.
        sparse: labels are numbers of classes.
        reduction: over the clips of a batch.
        label_smoothing: the share of each target spread evenly over all classes (Szegedy et al. 2016).
    """

    type: Literal["SoftmaxCrossEntropyWithLogits"] = "SoftmaxCrossEntropyWithLogits"
    sparse: Literal[True] = True
    reduction: Literal["mean"] = "mean"
    label_smoothing: Fraction = 0.0


@dataclass(frozen=True)
class Train:
    """How long to train, from which weights, and what to keep.

    Attributes:
        pre_trained: start from the weights in `pretrained_model`.
        pretrained_model: file of weights: .ckpt, .safetensors or .pth.
        head: `new`: keep the fresh last layer instead of the pretrained one, for classes of your own.
        ckpt_path: folder of run folders.
        epochs: passes over the training videos; the length of the learning rate's schedule.
        save_checkpoint_epochs: write a checkpoint every so many epochs (0: none for that); the last epoch's is always
            written, and each that evaluates better than all before it.
        save_checkpoint_steps: also every so many steps (0: never).
        keep_checkpoint_max: newest checkpoints kept; the best one is kept besides.
        eval_epochs: evaluate every so many epochs (0: never); the last epoch is always evaluated then.
        log_steps: steps between two lines of the log.
        seed: of the initial weights, the order of samples and their augmentation.
        run_distribute: one process a device, data parallel; `make train DEVICES=N` starts them and sets it.
        amp_level: O0 float32; O2 convolutions and the linear layer in float16; O3 everything between them too.
            Weights, and the parameters and statistics of batch norms, are float32 in all three.
        nonfinite_steps: steps in a row whose loss is NaN or infinite before training gives up.
    """

    pre_trained: bool = False
    pretrained_model: PathText = ""
    head: Literal["same", "new"] = "same"
    ckpt_path: PathText = "runs"
    epochs: PositiveInt = 100
    save_checkpoint_epochs: NonNegativeInt = 5
    save_checkpoint_steps: NonNegativeInt = 0
    keep_checkpoint_max: PositiveInt = 10
    run_distribute: bool = False
    eval_epochs: NonNegativeInt = 1
    log_steps: PositiveInt = 1
    seed: NonNegativeInt = 0
    amp_level: Literal["O0", "O2", "O3"] = "O0"
    nonfinite_steps: PositiveInt = 5


@dataclass(frozen=True)
class Eval:
    """Score a checkpoint.

    Attributes:
        pretrained_model: the checkpoint; empty: the best of the newest run.
    """

    pretrained_model: PathText = ""


@dataclass(frozen=True)
class Infer:
    """Predict one video file.

    Attributes:
        pretrained_model: the checkpoint; empty: the best of the newest run.
        batch_size: has no effect; a video's clips are one batch.
        image_path: the video file, in zjut_mindvideo's words.
        normalize: false has no effect; the normalisation is that of data_loader.eval.map.
        output_dir: folder for the picture.
    """

    pretrained_model: PathText = ""
    batch_size: PositiveInt = 1
    image_path: PathText = ""
    normalize: bool = True
    output_dir: PathText = "./infer_output"


@dataclass(frozen=True)
class Export:
    """Write the network in a form that runs elsewhere.

    Attributes:
        pretrained_model: the checkpoint; empty: the best of the newest run.
        batch_size: clips the file takes at a time; `dynamic`: any number.
        image_height: of the clips, in pixels.
        image_width: of the clips, in pixels.
        input_channel: of the clips: RGB.
        file_name: of the exported file, without ending.
        file_formate: its form, in zjut_mindvideo's spelling.
    """

    pretrained_model: PathText = ""
    batch_size: PositiveInt | Literal["dynamic"] = 1
    image_height: PositiveInt = 112
    image_width: PositiveInt = 112
    input_channel: Literal[3] = 3
    file_name: str = "r2plus1d18"
    file_formate: Literal["MINDIR", "ONNX", "AIR"] = "MINDIR"


@dataclass(frozen=True)
class Dataset:
    """Which clips make a batch.

    Attributes:
        type: zjut_mindvideo's word; which ledgers are read is `preprocess.dataset`.
        path: zjut_mindvideo's data root; used as `preprocess.data_root` where that is not set.
        split: the ledger to read.
        batch_size: clips in a batch.
        seq: frames in a clip (T).
        seq_mode: how a clip's frames are chosen: see train/data/clip_sampling.py.
        frame_interval: stored frames from one frame of the clip to the next, in modes interval, random and uniform.
        num_clips: clips taken from each video in an epoch.
        num_crops: crops taken of each clip, in evaluation: 1, or 3 along the side with more room.  The
            num_clips * num_crops views of a video are averaged for its score.
        num_parallel_workers: threads copying batches out of the shards.
        shuffle: in an order that is another in each epoch.
        shuffle_shards: with `shuffle`, draw from so many shards at a time, for cold disks; 0: from all.
        verify_checksums: compare each video with its CRC-32 when it is read for the first time.
        batch_timeout_s: seconds to wait for one batch before the run ends, with a checkpoint and exit code 75.
    """

    type: Literal["Kinetic400", "Kinetics"] = "Kinetics"
    path: PathText = ""
    split: Literal["train", "val", "test"] = "train"
    batch_size: PositiveInt = 8
    seq: PositiveInt = 16
    seq_mode: Literal["part", "discrete", "average", "interval", "random", "uniform"] = "part"
    frame_interval: PositiveInt = 1
    num_clips: PositiveInt = 1
    num_crops: Literal[1, 3] = 1
    num_parallel_workers: PositiveInt = 1
    shuffle: bool = True
    shuffle_shards: NonNegativeInt = 0
    verify_checksums: bool = False
    batch_timeout_s: PositiveFloat = 300.0


@dataclass(frozen=True)
class Loader:
    """Clips and their transforms for training or for evaluation.

    Attributes:
        dataset: which clips make a batch.
        map: the operations on them.
    """

    dataset: Dataset = field(default_factory=Dataset)
    map: Map = field(default_factory=Map)

    def transforms(self, stored: tuple[int, int]) -> Transforms:
        """What `map` does to stored frames of that size, (H, W) in pixels.

        Raises:
            ValueError: the operations do not go with the frames.
        """
        return self.map.transforms(stored)


@dataclass(frozen=True)
class DataLoader:
    """Both loaders.

    Attributes:
        train: of training.
        eval: of evaluation and prediction.
        group_size: batches that make one optimizer step.
    """

    train: Loader = field(default_factory=Loader)
    eval: Loader = field(default_factory=lambda: Loader(Dataset(split="val", seq_mode="uniform", shuffle=False)))
    group_size: PositiveInt = 1


@dataclass(frozen=True)
class Config:
    """A whole experiment.

    Attributes:
        model_name: has no effect; `model.type` is the network.
        device_target: what computes; auto: a GPU or NPU that can be used, else the CPU.
        dataset_sink_mode: has no effect; batches are fed one by one.
        context: MindSpore's execution context.
        model: the network.
        learning_rate: the learning rate of each step.
        optimizer: what a step does.
        loss: what is minimised.
        train: how long to train, from which weights, and what to keep.
        eval: what `make eval` scores.
        infer: what `make infer` predicts.
        export: what `make export` writes.
        data_loader: clips and their transforms.
        preprocess: where videos and shards are, and what a stored frame is.
    """

    model_name: str = "r(2+1)d_18"
    device_target: Device = "auto"
    dataset_sink_mode: bool = False
    context: Context = field(default_factory=Context)
    model: Model = field(default_factory=Model)
    learning_rate: LearningRate = field(default_factory=LearningRate)
    optimizer: Optimizer = field(default_factory=Optimizer)
    loss: Loss = field(default_factory=Loss)
    train: Train = field(default_factory=Train)
    eval: Eval = field(default_factory=Eval)
    infer: Infer = field(default_factory=Infer)
    export: Export = field(default_factory=Export)
    data_loader: DataLoader = field(default_factory=DataLoader)
    preprocess: recipe.Preprocess = field(default_factory=recipe.Preprocess)

    def __post_init__(self) -> None:
        target = self.context.device_target
        if target is not None and target != self.device_target:
            raise ValueError(f"device_target {self.device_target} and context.device_target {target} differ")
        stored = self.preprocess.frame_size
        object.__setattr__(self, "data_loader", _with_standard_maps(self.data_loader, stored))
        train, evaluation = self.data_loader.train, self.data_loader.eval
        seen = {}
        for name, loader in (("train", train), ("eval", evaluation)):
            try:
                seen[name] = loader.transforms(stored)
            except ValueError as error:
                raise ValueError(f"data_loader.{name}.map: {error}") from None
        if seen["train"].cut == "centre" or train.dataset.seq_mode == "uniform":
            raise ValueError("data_loader.train: VideoCenterCrop and seq_mode uniform are for data_loader.eval")
        if train.dataset.num_crops != 1:
            raise ValueError("data_loader.train.dataset.num_crops: 3 is for data_loader.eval")
        if evaluation.dataset.num_crops != 1 and seen["eval"].cut != "centre":
            raise ValueError("data_loader.eval.dataset.num_crops: 3 needs a VideoCenterCrop in data_loader.eval.map")
        if seen["eval"].cut == "random":
            raise ValueError("data_loader.eval.map: VideoRandomCrop would make scores random; use VideoCenterCrop")
        if seen["eval"].flip_probability:
            raise ValueError("data_loader.eval.map: VideoRandomHorizontalFlip would make scores random; leave it out")


def _with_standard_maps(loaders: DataLoader, stored: tuple[int, int]) -> DataLoader:
    """The loaders; one whose map has no list of operations gets the standard one, which resizes to `stored`."""

    def completed(loader: Loader, standard: Map) -> Loader:
        if loader.map.operations is not None:
            return loader
        return replace(loader, map=replace(loader.map, operations=standard.operations))

    return replace(
        loaders,
        train=completed(loaders.train, standard_map(stored, "random", flip=0.5)),
        eval=completed(loaders.eval, standard_map(stored, "centre")),
    )
