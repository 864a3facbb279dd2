"""Options of a run. Flags, flag files, run.cfg, `--help` and the Python API are all made from these records."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, cast

from tfx_finetune.core import plugins
from tfx_finetune.core.options import option


@dataclass(frozen=True)
class Phase:
    """Options of one training phase.

    Examples:
        >>> Phase(epochs=3, unfreeze="5").learning_rate
        0.001
    """

    epochs: int = option(0, "largest number of epochs; 0 skips the phase", low=0)
    learning_rate: float = option(1e-3, "peak learning rate", low=0)
    unfreeze: str = option(
        "0",
        "layer groups to train, counted from the top: a number, a fraction such as 0.3, or all; per tower: "
        "image=5, text=all",
    )
    one_tower_at_a_time: bool = option(False, "train the towers one after another, each in its own phase")
    lr_multipliers: str = option("1", "learning rate multiplier of the towers; per tower: image=1, text=0.1")
    gradient_modulation: float = option(
        0.0, "strength that slows the tower which learns faster than the others (OGM-GE, arXiv 2203.15332)", low=0
    )
    adapter: str = option("", "adapter to train in the unfrozen groups instead of all weights, such as lora(rank=4)")
    optimizer: str = option("adamw", "optimizer", choices=("adamw", "sgd", "lion", "muon"))
    schedule: str = option(
        "cosine", "learning rate schedule after warmup", choices=("cosine", "linear", "one_cycle", "constant")
    )
    warmup_ratio: float = option(0.1, "fraction of the steps in which the learning rate rises", low=0, high=1)
    layer_decay: float = option(1.0, "learning rate of a group relative to the group above it", low=0.1, high=1)
    weight_decay: float = option(1e-4, "decoupled weight decay; biases and normalization are exempt", low=0)
    l2_sp: bool = option(False, "decay weights towards their values at the start of the phase instead of 0")
    clip_norm: float = option(1.0, "largest gradient norm; 0 for no clipping", low=0)
    clip_norm_per_tower: bool = option(False, "clip the gradient norm of each tower separately")
    clip_value: float = option(0.0, "largest absolute value of a gradient element; 0 for no clipping", low=0)
    gradient_accumulation_steps: int = option(1, "batches whose gradients are averaged before a step", low=1)
    patience: int = option(5, "epochs without a better validation score before training stops; 0 to never stop", low=0)
    ema_momentum: float = option(
        0.0, "momentum of an exponential moving average of the weights, which is then validated and kept", low=0, high=1
    )
    stochastic_depth: float = option(
        0.0, "drop probability of the last block; earlier blocks have less", low=0, high=0.9
    )
    soup_epochs: int = option(
        0, "last epochs to average while the validation score does not fall (model soup, arXiv 2203.05482)", low=0
    )
    wise_ft: bool = option(
        False, "keep the best interpolation of initial and final weights (WiSE-FT, arXiv 2109.01903)"
    )
    unfreezing_stages: int = option(1, "stages of gradual unfreezing, which share the epochs", low=1)
    augmented_views: int = option(2, "augmented views per sample for the frozen part; 1 for the sample itself", low=1)


# docs/explanation/measurements.md compares the presets.
_FROZEN = Phase(epochs=20, learning_rate=3e-3, patience=10)
_FINETUNE = Phase(epochs=5, learning_rate=3e-4, unfreeze="5", soup_epochs=3, wise_ft=True)
PRESETS = {
    "fast": (dataclasses.replace(_FROZEN, augmented_views=1), dataclasses.replace(_FINETUNE, epochs=0)),
    "balanced": (_FROZEN, _FINETUNE),
    "best": (_FROZEN, dataclasses.replace(_FINETUNE, epochs=20, patience=0, soup_epochs=5, wise_ft=False)),
}


@dataclass(frozen=True)
class DistillOptions:
    """Options of distillation from the bundles of `--teacher`."""

    alpha: float = option(0.5, "weight of the distillation loss; the label loss has 1 - alpha", low=0, high=1)
    temperature: float = option(2.0, "divisor of the logits of teacher and student", low=0.1)


@dataclass(frozen=True)
class ImageOptions:
    """Options of image preprocessing."""

    resize: str = option("pad", "method that makes an image square", choices=("pad", "crop", "stretch"))
    background: str = option("white", "color behind transparency and padding: a name or #rrggbb")
    max_pixels: int = option(100_000_000, "largest number of pixels; larger images count as unreadable", low=1)


@dataclass(frozen=True)
class AudioOptions:
    """Options of audio preprocessing."""

    max_seconds: float = option(30.0, "seconds that are read from the start of a recording", low=0.01)
    loudness: str = option("rms", "loudness normalization", choices=("rms", "none"))
    trim: float = option(40.0, "trim silence at both ends: decibels below the peak; 0 for no trimming", low=0)


@dataclass(frozen=True)
class TextOptions:
    """Options of text preprocessing."""

    normalize: str = option("none", "Unicode normal form", choices=("none", "nfc", "nfkc"))
    max_bytes: int = option(1_000_000, "largest number of bytes; longer texts count as unreadable", low=1)


@dataclass(frozen=True)
class SplitOptions:
    """Fractions of the test and validation splits, for data without them."""

    test: float = option(0.25, "fraction of the samples for the test split", low=0.01, high=0.9)
    val: float = option(0.1, "fraction of the samples for the validation split", low=0, high=0.9)


@dataclass(frozen=True)
class MixtureOptions:
    """Sampling weights of sources or languages in training."""

    weights: str = option("", "sampling weights, such as a=1, b=2")
    temperature: float = option(
        1.0, "weights proportional to size ** (1 / temperature): 1 keeps the sizes, inf is uniform", low=0.01
    )
    column: str = option("source", "column whose values are weighted", choices=("source", "language"))
    epoch_length: str = option(
        "samples",
        "samples of an epoch: as many as there are, or the largest source once",
        choices=("samples", "largest"),
    )


@dataclass(frozen=True)
class VerifyOptions:
    """Largest score drop of exported files, compared with the trained model on the test split."""

    max_drop: float = option(0.02, "largest score drop of a quantized file", low=0, high=1)
    max_drop_float: float = option(0.001, "largest score drop of a float file", low=0, high=1)


@dataclass(frozen=True)
class CacheOptions:
    """Options of the cache of downloads and frozen features."""

    dir: str = option("", "folder; default: $TFX_FINETUNE_CACHE or ~/.cache/tfx_finetune")
    enabled: bool = option(True, "keep the features of frozen towers for later runs")
    max_bytes: int = option(
        20_000_000_000,
        "size of the feature cache, from which the least recently used features go; 0 for no limit",
        low=0,
    )
    precision: str = option("float32", "type of cached features", choices=("float32", "float16"))


@dataclass(frozen=True)
class MetadataOptions:
    """Metadata of the exported files."""

    name: str = option("", "name of the model; default: the name of the work folder")
    version: str = option("1", "version of the model")
    author: str = option("", "author of the model")
    license: str = option("", "license of the model; default: the license of the pretrained weights")


@dataclass(frozen=True)
class Run:
    """Options of a run: data, model, training and exports. `run.cfg` in the work folder is their text form.

    Examples:
        >>> Run(data="photos/", preset="fast").finetune.epochs
        0
    """

    data: str = option(
        "",
        "folder, table or source spec such as tfds('mnist'); several sources by name: a=folder('x'), b=tfds('mnist')",
    )
    backbone: str = option(
        "default",
        "pretrained backbone; several towers by name: image=efficientnet_lite0(), text=e5_small(); "
        "default: the backbone of --init, else efficientnet_lite0()",
    )
    init: str = option("", "bundle whose backbone and matching class weights initialize the model")
    add_language: str = option("", "language for which the bundle of --init, trained with --heads_by, gets a new head")
    teacher: str = option("", "bundles to distill from, separated by commas; their mean prediction is the target")
    heads: str = option("classify()", "tasks: classify(), tag(), detect(), segment(), zero_shot(); several by name")
    heads_by: str = option("", "column (e.g. language) that selects which head is trained and evaluated on a sample")
    unknown_group: str = option("fail", "treatment of samples without a head", choices=("fail", "skip", "shared"))
    label_map: str = option("", "table with columns from, to and optionally source that renames or drops labels")
    label_translations: str = option("", "class names in other languages: a table of label, language and text")
    train_languages: str = option("", "languages to train on, separated by commas; default: all")
    test_languages: str = option("", "languages to test on, separated by commas; default: all")
    leave_out: str = option("", "language, source or column=value that is tested and not trained on")
    class_balanced_sampling: bool = option(False, "sample every class equally often in training")
    max_unreadable: float = option(0.1, "largest fraction of unreadable samples", low=0, high=1)
    auxiliary_losses: str = option("", "auxiliary losses on the features: align(), dann(), coral()")
    strategy: str = option(
        "joint",
        "order in which phase finetune trains languages: together, separately and then merged, or one after another",
        choices=("joint", "per_language_then_merge", "sequential"),
    )
    merge: str = option("average()", "merging of separately trained weights: average(), task_arithmetic(), ties()")
    language_order: str = option("", "order of languages for --strategy=sequential; default: the largest first")
    rehearsal: float = option(
        0.0, "fraction of earlier languages' samples that --strategy=sequential replays", low=0, high=1
    )
    augment: str = option("default", "augmentations of samples and batches, in order; default: those of the modality")
    compress: str = option("", "compressions, in order: prune(), cluster(), qat()")
    exports: str = option(
        "default", "files to export; default: Keras, SavedModel, and TFLite in float32, float16 and int8"
    )
    calibration_samples: int = option(64, "training samples, balanced over classes, for int8 calibration", low=1)
    constraints: str = option("", "constraints that select model_best.tflite, such as size<2MB, score_drop<0.01")
    workdir: str = option("", "folder of all results; default: runs/ and the name of the data")
    deterministic: bool = option(False, "raise an error for operations that are not deterministic on a GPU")
    seed: int = option(0, "seed of splits, initialization, data order and augmentation", low=0)
    batch_size: int = option(32, "batch size of training", low=1)
    fusion: str = option("late()", "fusion of several towers")
    modality_dropout: float = option(
        0.2, "probability of dropping each input of a training sample, for several towers", low=0, high=0.9
    )
    plugins: str = option("", plugins.HELP)
    preset: str = option("balanced", "training cost, which sets the defaults of both phases", choices=tuple(PRESETS))
    # None stands for the phase of the preset.
    frozen: Phase = field(default=cast(Phase, None))
    finetune: Phase = field(default=cast(Phase, None))
    distill: DistillOptions = field(default_factory=DistillOptions)
    image: ImageOptions = field(default_factory=ImageOptions)
    audio: AudioOptions = field(default_factory=AudioOptions)
    text: TextOptions = field(default_factory=TextOptions)
    split: SplitOptions = field(default_factory=SplitOptions)
    mixture: MixtureOptions = field(default_factory=MixtureOptions)
    verify: VerifyOptions = field(default_factory=VerifyOptions)
    metadata: MetadataOptions = field(default_factory=MetadataOptions)
    cache: CacheOptions = field(default_factory=CacheOptions)

    def __post_init__(self) -> None:
        frozen, finetune = PRESETS.get(self.preset, PRESETS["balanced"])
        object.__setattr__(self, "frozen", self.frozen or frozen)
        object.__setattr__(self, "finetune", self.finetune or finetune)

    def modality_options(self, modality: str) -> dict[str, object]:
        """Return the options of a modality; empty for the modality of a plug-in, which keeps its defaults."""
        group = getattr(self, modality, None)
        return dataclasses.asdict(group) if dataclasses.is_dataclass(group) and not isinstance(group, type) else {}


def extract_run(options: Run) -> Run:
    """Return the options of a run from the record of a command that has more options."""
    return Run(**{item.name: getattr(options, item.name) for item in dataclasses.fields(Run)})


def with_preset(run: Any, preset: str) -> Any:
    """Return the run with both phases of another preset."""
    return dataclasses.replace(run, preset=preset, frozen=None, finetune=None)
