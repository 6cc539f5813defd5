"""The settings of training: one frozen dataclass for each section of the experiment file.

zjut_mindvideo's r2plus1d18.yaml loads unchanged: all its sections and keys are here, and a few more.  The annotations
hold the allowed ranges, and --help prints each line of `Attributes:`.  load.py reads a file and checks it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from pipeline.common import recipe
from pipeline.common.errors import UserError
from pipeline.common.value_types import (
    Fraction,
    Name,
    NonNegativeFloat,
    NonNegativeInt,
    PathText,
    PositiveFloat,
    PositiveInt,
    Range,
)
from train.experiment.transforms import Map, Transforms, standard_map

Device = Literal["auto", "CPU", "GPU", "Ascend"]
ProtocolName = Literal[
    "torchvision-clip", "torchvision-video", "vmz", "vmz-pt", "zjut", "views-10x3", "one-clip",
]  # fmt: skip
Triple = tuple[PositiveInt, PositiveInt, PositiveInt]

WITHOUT_STEP = ("discrete", "average")
"""The values of `seq_mode` with which a clip's frames are not a certain number of stored frames apart."""


@dataclass(frozen=True)
class Context:
    """MindSpore's execution context.

    Attributes:
        mode: 0: compile the network into graphs (fast); 1: run each operator by itself (pynative, to find errors).
        device_target: the same as the key `device_target` outside this section, where zjut_mindvideo has it; null: not
            given.
        save_graphs: write the graphs that MindSpore compiles to files, to find errors in them.
        device_id: number of the GPU or NPU on this machine, from 0.
    """

    mode: Literal[0, 1] = 0
    device_target: Device | None = None
    save_graphs: bool = False
    device_id: NonNegativeInt = 0


@dataclass(frozen=True)
class Model:
    """The network (model/r2plus1d.py).

    Attributes:
        type: network and number of layers: R(2+1)D, R3D or MC3; MMAction2R2Plus1d34 is mmaction2's R(2+1)D.
        stage_channels: number of channels of each of the four stages.
        stage_strides: stride [T, H, W] of each of the four stages; null: those published for the type.
        num_classes: number of classes; `auto`: highest label_id of the ledgers + 1.
        midplanes: rule for the channels between the 2-D and the 1-D convolution of R(2+1)D: `shared` as in torchvision
            and zjut_mindvideo, or `paper` as in the authors' code.
        bn_eps: epsilon of batch norms; the authors' code has 1e-3.
        dropout: fraction of the features that is set to 0 before the last layer in training.
        freeze_stages: number of parts, counted from the input (stem, layer1 to layer4), that training does not change.
        layout: order of dimensions while computing: NCTHW uses 3-D convolutions, NTHWC 2-D ones; files are the same.
            auto: NTHWC for R(2+1)D on a GPU, else NCTHW.
    """

    type: Literal["R2Plus1d18", "R2Plus1d34", "R2Plus1d50", "MMAction2R2Plus1d34", "R3d18", "R3d34", "MC3d18"] = (
        "R2Plus1d18"
    )
    stage_channels: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (64, 128, 256, 512)
    stage_strides: tuple[Triple, Triple, Triple, Triple] | None = None
    num_classes: Annotated[int, Range(min=2, max=100_000)] | Literal["auto"] = 400
    midplanes: Literal["shared", "paper"] = "shared"
    bn_eps: PositiveFloat = 1e-5
    dropout: Annotated[float, Range(min=0, max=0.99)] = 0.0
    freeze_stages: Annotated[int, Range(min=0, max=5)] = 0
    layout: Literal["auto", "NCTHW", "NTHWC"] = "auto"

    @property
    def classes(self) -> int:
        """`num_classes` as a number.

        Raises:
            UserError: it is still `auto`; commands call load.with_num_classes first.
        """
        if self.num_classes == "auto":
            raise UserError("model.num_classes: got auto, expected a number; give --model.num_classes=N")
        return self.num_classes


@dataclass(frozen=True)
class LearningRate:
    """The learning rate of each step; `train.epochs` and the dataset give the number of steps.

    Attributes:
        lr_scheduler: how the learning rate falls after the warm-up.
        lr: the highest learning rate, which the warm-up ends with.
        lr_batch_size: clips per step that `lr` is meant for; with another number, `lr` is scaled in proportion (Goyal
            et al. 2017).  null: `lr` is used unchanged.
        lr_epochs: epochs at which the learning rate falls.  lr_scheduler step: one number, the epochs between two
            falls; multi_step: the number of each epoch that starts with a fall.
        steps_per_epoch: has no effect; the dataset decides it.
        lr_gamma: factor by which the learning rate is multiplied at each fall, with lr_scheduler step and multi_step.
        eta_min: learning rate at the end of training with lr_scheduler cosine_annealing; at most `lr`.
        t_max: has no effect; `train.epochs` is the schedule's length.
        max_epoch: has no effect; `train.epochs` is the schedule's length.
        warmup_epochs: number of epochs in which the learning rate rises to `lr`; 0: no warm-up.
        warmup_start: learning rate of the warm-up's first step as a fraction of `lr`; the first step after the warm-up
            has `lr`, as in torchvision.  null: it rises in equal parts from 0, and the warm-up's last step has `lr`, as
            in zjut_mindvideo.
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
            raise ValueError(f"lr_scheduler: got {self.lr_scheduler}, expected lr_epochs and lr_gamma with it")
        if self.lr_scheduler == "step" and len(falls) != 1:
            raise ValueError(f"lr_epochs: got {falls}, expected one number with lr_scheduler step")
        cosine = self.lr_scheduler == "cosine_annealing"
        if cosine and self.lr_batch_size is None and self.eta_min > self.lr:
            raise ValueError(f"eta_min: got {self.eta_min:g}, expected at most lr, {self.lr:g}")
        if falls != sorted(set(falls)):
            raise ValueError(f"lr_epochs: got {falls}, expected rising numbers")


@dataclass(frozen=True)
class Optimizer:
    """Momentum SGD; weight decay applies to every trainable parameter, as in zjut_mindvideo and torchvision.

    Attributes:
        type: the optimizer: SGD with momentum.
        momentum: fraction of the last step that is added to the next step.
        weight_decay: factor of the weights that is added to their gradients.
        loss_scale: factor of the loss, so that float16 gradients do not become 0; `dynamic`: halved when gradients
            overflow, doubled after 2,000 steps without overflow.
        clip_norm: largest norm of all gradients together; larger gradients are scaled down to it.  null: no limit.
        ema_decay: decay of the exponential moving average of the weights; this average is then evaluated and saved
            (0.999: about the last thousand steps).  null: no average.
        layer_lr_decay: factor between the learning rates of neighbouring layers: layer4 has the last layer's learning
            rate times this, layer3 times its square, and so on.  1: all have the same.
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
        type: the loss: softmax cross-entropy.
        sparse: labels are class numbers, not vectors.
        reduction: how the losses of a batch's clips become one number: their mean.
        label_smoothing: fraction of each target that is spread evenly over all classes (Szegedy et al. 2016); 0: none.
    """

    type: Literal["SoftmaxCrossEntropyWithLogits"] = "SoftmaxCrossEntropyWithLogits"
    sparse: Literal[True] = True
    reduction: Literal["mean"] = "mean"
    label_smoothing: Fraction = 0.0


@dataclass(frozen=True)
class Train:
    """How long to train, from which weights, and what to keep.

    Attributes:
        pre_trained: start from the weights in `train.pretrained_model`; false: from random weights.
        pretrained_model: file of weights to start from: .ckpt, .safetensors or .pth.
        head: same: take the last layer from `train.pretrained_model`; new: give it new random weights, for your own
            classes.
        ckpt_path: folder in which each training makes a run folder.
        epochs: passes over the training videos; also the length of the learning rate's schedule.
        save_checkpoint_epochs: write a checkpoint after every so many epochs (0: never).  The last epoch and each new
            best evaluation always write one.
        save_checkpoint_steps: also write a checkpoint after every so many steps (0: never).
        keep_checkpoint_max: number of newest checkpoints to keep; the best one is always kept.
        eval_epochs: evaluate after every so many epochs, and after the last (0: never).
        log_steps: number of steps between two lines of train.log and metrics.jsonl; the terminal shows the last one of
            an epoch, and others at most once a minute.
        seed: random seed of the initial weights, the order of videos and the augmentation.
        run_distribute: train with one process per device (data parallel); set by `make train DEVICES=N`.
        amp_level: number format: O0: all float32; O2: convolutions and the linear layer in float16; O3: also the layers
            between them.  Weights and batch norms' parameters and statistics are always float32.
        nonfinite_steps: stop training after so many steps in a row whose loss is NaN or infinite.
    """

    pre_trained: bool = False
    pretrained_model: PathText = ""
    head: Literal["same", "new"] = "same"
    ckpt_path: PathText = "runs"
    epochs: Annotated[int, Range(min=1, max=100_000)] = 100
    save_checkpoint_epochs: NonNegativeInt = 5
    save_checkpoint_steps: NonNegativeInt = 0
    keep_checkpoint_max: PositiveInt = 10
    run_distribute: bool = False
    eval_epochs: NonNegativeInt = 1
    log_steps: PositiveInt = 1
    seed: Annotated[int, Range(min=0, max=2**32 - 1)] = 0  # as far as numpy's legacy generator takes one
    amp_level: Literal["O0", "O2", "O3"] = "O0"
    nonfinite_steps: PositiveInt = 5


@dataclass(frozen=True)
class Eval:
    """Score a checkpoint.

    Attributes:
        pretrained_model: checkpoint to score; empty: the best of the newest run.
        protocols: published ways to choose and average clips (train/evaluation/protocols.py), all from one pass; the
            first one also scores in training and in infer.  Empty: as the keys of `data_loader.eval.dataset` say.
        output_dir: folder for the results; empty: `eval` in the run folder, or beside the weights.
    """

    pretrained_model: PathText = ""
    protocols: tuple[ProtocolName, ...] = ()
    output_dir: PathText = ""


@dataclass(frozen=True)
class Infer:
    """Predict videos.

    Attributes:
        pretrained_model: checkpoint to predict with; empty: the best of the newest run.
        batch_size: has no effect; `data_loader.eval.dataset.batch_size` is used.
        image_path: a video, a folder, a list file or a glob; zjut_mindvideo named this key.
        normalize: has no effect; clips are normalised as in `data_loader.eval.map`.
        output_dir: folder for the pictures with the predicted label.
    """

    pretrained_model: PathText = ""
    batch_size: PositiveInt = 1
    image_path: PathText = ""
    normalize: bool = True
    output_dir: PathText = "./infer_output"


@dataclass(frozen=True)
class Export:
    """Write the network to a file that other programs can run.

    Attributes:
        pretrained_model: checkpoint to export; empty: the best of the newest run.
        batch_size: number of clips in one call of the exported network; `dynamic`: any number.
        image_height: height of the clips in pixels.
        image_width: width of the clips in pixels.
        input_channel: number of colour channels of the clips: RGB.
        file_name: name of the exported file, without ending.
        file_formate: format of the exported file; the spelling of this key is zjut_mindvideo's.
    """

    pretrained_model: PathText = ""
    batch_size: PositiveInt | Literal["dynamic"] = 1
    image_height: PositiveInt = 112
    image_width: PositiveInt = 112
    input_channel: Literal[3] = 3
    file_name: Name = "r2plus1d18"
    file_formate: Literal["MINDIR", "ONNX", "AIR"] = "MINDIR"


@dataclass(frozen=True)
class Dataset:
    """Which clips make a batch.

    Attributes:
        type: has no effect; `preprocess.dataset` chooses the ledgers.  Kinetic400 is zjut_mindvideo's spelling.
        path: folder of videos in zjut_mindvideo's files; the train loader's is used where `preprocess.data_root` is not
            given, the eval loader's has no effect.
        split: which split's ledger is read.
        batch_size: number of clips in a batch, per device.
        seq: number of frames in a clip (T).
        seq_mode: how a clip's frames are chosen: part: consecutive, random start; interval: every frame_interval-th,
            random start; random: the same, a different start for each clip of a video; uniform: the same, evenly spread
            starts; discrete: different random frames in order; average: one frame in each of `seq` equal parts.
        frame_interval: step in stored frames from one frame of a clip to the next, with seq_mode interval, random or
            uniform.
        num_clips: number of clips taken from each video in an epoch.
        num_crops: crops of each clip: 1; in evaluation also 3, along the side with more space.  A video's score is the
            average over its num_clips * num_crops views.
        num_parallel_workers: number of threads that copy batches from the shards.
        shuffle: take the videos in a random order, new in each epoch.
        shuffle_shards: with shuffle: number of shards to draw from at a time, for slow disks; 0: all.
        verify_checksums: compare each video with its checksum (CRC-32) when it is first read.
        batch_timeout_s: seconds to wait for a batch; then training saves a checkpoint and ends with exit code 75.
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
        map: operations on the clips.
    """

    dataset: Dataset = field(default_factory=Dataset)
    map: Map = field(default_factory=Map)

    def transforms(self, stored: tuple[int, int]) -> Transforms:
        """What `map` does to stored frames of that size, (H, W) in pixels.

        Raises:
            ValueError: the operations cannot be applied to these frames.
        """
        return self.map.transforms(stored)


@dataclass(frozen=True)
class DataLoader:
    """Both loaders.

    Attributes:
        train: clips for training.
        eval: clips for evaluation and prediction.
        group_size: number of batches whose gradients make one optimizer step.
    """

    train: Loader = field(default_factory=Loader)
    eval: Loader = field(default_factory=lambda: Loader(Dataset(split="val", seq_mode="uniform", shuffle=False)))
    group_size: PositiveInt = 1


@dataclass(frozen=True)
class Config:
    """A whole experiment.

    Attributes:
        model_name: has no effect; `model.type` chooses the network.
        device_target: device that computes; auto: a GPU or NPU if one can be used, else the CPU.
        dataset_sink_mode: has no effect; batches are always fed one by one.
        context: MindSpore's execution context.
        model: the network.
        learning_rate: the learning rate of each step.
        optimizer: how a step changes the weights.
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
            raise ValueError(f"context.device_target: got {target}, expected device_target, {self.device_target}")
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
            raise ValueError("data_loader.train: VideoCenterCrop and seq_mode uniform are only for data_loader.eval")
        if train.dataset.num_crops != 1:
            raise ValueError("data_loader.train.dataset.num_crops: got 3, expected 1; 3 is only for data_loader.eval")
        if evaluation.dataset.num_crops != 1 and seen["eval"].cut != "centre":
            raise ValueError("data_loader.eval.dataset.num_crops: got 3, expected 1 without VideoCenterCrop in the map")
        if seen["eval"].cut == "random":
            raise ValueError("data_loader.eval.map: VideoRandomCrop would make scores random; use VideoCenterCrop")
        if seen["eval"].flip_probability:
            raise ValueError("data_loader.eval.map: VideoRandomHorizontalFlip would make scores random; remove it")


def _with_standard_maps(loaders: DataLoader, stored: tuple[int, int]) -> DataLoader:
    """The loaders; a map without a list of operations gets the standard list, which resizes to `stored`."""

    def completed(loader: Loader, standard: Map) -> Loader:
        if loader.map.operations is not None:
            return loader
        return replace(loader, map=replace(loader.map, operations=standard.operations))

    return replace(
        loaders,
        train=completed(loaders.train, standard_map(stored, "random", flip=0.5)),
        eval=completed(loaders.eval, standard_map(stored, "centre")),
    )
