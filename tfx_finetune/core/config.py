"""Every option of a run, defined here alone: flags, run.cfg and the Python API are made from these classes."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from tfx_finetune.core import plugins
from tfx_finetune.core.errors import UserError, did_you_mean


def option(default: Any, text: str, *, low: float | None = None, high: float | None = None, choices: tuple = ()) -> Any:
    """A dataclass field with its help text and what it allows: a closed range or a set of choices."""
    return field(default=default, metadata={"help": text, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True)
class Phase:
    """One stage of training: what is unfrozen, for how long, how fast."""

    epochs: int = option(0, "passes over the training data at most; 0 skips the phase", low=0)
    learning_rate: float = option(1e-3, "peak learning rate", low=0)
    unfreeze: str = option(
        "0", "top groups of the towers to train: a number, a share such as 0.3, or all; or image=5, text=all"
    )
    one_tower_at_a_time: bool = option(False, "train each of several towers in a phase of its own, one after another")
    lr_multipliers: str = option("1", "factor of the towers' learning rates; or one each, such as image=1, text=0.1")
    gradient_modulation: float = option(
        0.0, "how much a tower that learns faster than the others is slowed (arXiv 2203.15332)", low=0
    )
    adapter: str = option("", "what is trained inside those groups in place of all weights, such as lora(rank=4)")
    optimizer: str = option("adamw", "how weights step", choices=("adamw", "sgd", "lion", "muon"))
    schedule: str = option(
        "cosine", "learning rate after the warm-up", choices=("cosine", "linear", "one_cycle", "constant")
    )
    warmup_ratio: float = option(0.1, "share of the steps in which the learning rate rises", low=0, high=1)
    layer_decay: float = option(1.0, "learning rate of a group as a share of the next higher one's", low=0.1, high=1)
    weight_decay: float = option(1e-4, "decoupled weight decay, not on biases and normalization", low=0)
    l2_sp: str = option(
        "zero", "what weight decay pulls towards: zero, or the phase's start", choices=("zero", "start")
    )
    clip_norm: float = option(1.0, "gradient norm above which gradients are scaled down; 0 never", low=0)
    clip_norm_per_tower: bool = option(False, "clip the gradient norm of each tower, and of what they share, by itself")
    clip_value: float = option(0.0, "size at which each part of a gradient is cut; 0 never", low=0)
    gradient_accumulation_steps: int = option(1, "batches whose gradients are averaged for one step", low=1)
    patience: int = option(5, "epochs without a better validation score before stopping; 0 never stops early", low=0)
    ema_momentum: float = option(
        0.0, "momentum of a moving average of the weights, which is then judged and kept", low=0, high=1
    )
    stochastic_depth: float = option(0.0, "chance that the last block is left out, less below it", low=0, high=0.9)
    soup_epochs: int = option(
        0, "last epochs that may be averaged, as long as the validation score does not fall", low=0
    )
    wise_ft: bool = option(False, "keep the best point between the phase's start and its end (WiSE-FT)")
    unfreezing_stages: int = option(
        1, "steps in which the groups are unfrozen, from the top; the epochs are shared", low=1
    )
    augmented_views: int = option(
        2, "augmented views of each sample that the frozen part sees; 1 is the sample itself", low=1
    )


# What each budget spends; docs/training.md has what each gave.
_FROZEN = Phase(epochs=20, learning_rate=3e-3, patience=10)
_FINETUNE = Phase(epochs=5, learning_rate=3e-4, unfreeze="5", soup_epochs=3, wise_ft=True)
PRESETS = {
    "fast": (dataclasses.replace(_FROZEN, augmented_views=1), dataclasses.replace(_FINETUNE, epochs=0)),
    "balanced": (_FROZEN, _FINETUNE),
    "best": (_FROZEN, dataclasses.replace(_FINETUNE, epochs=20, patience=0, soup_epochs=5, wise_ft=False)),
}


@dataclass(frozen=True)
class DistillOptions:
    """How much the heads learn from `--teacher`, and from how soft answers."""

    alpha: float = option(0.5, "share of the loss that is the difference from the teacher's answers", low=0, high=1)
    temperature: float = option(2.0, "by which logits are divided, those of both, before they are compared", low=0.1)


@dataclass(frozen=True)
class ImageOptions:
    """How pictures become model input."""

    size: int = option(0, "side of the model's input in pixels; 0 takes the backbone's own", low=0)
    resize: str = option("pad", "how a picture becomes square", choices=("pad", "crop", "stretch"))
    background: str = option("white", "colour behind transparency and padding: a name or #rrggbb")
    max_pixels: int = option(100_000_000, "pictures of more pixels are refused as unreadable", low=1)


@dataclass(frozen=True)
class AudioOptions:
    """How recordings become model input."""

    max_seconds: float = option(30.0, "what comes later in a recording is not read", low=0.01)
    loudness: str = option("rms", "whether recordings are made equally loud", choices=("rms", "none"))
    trim: float = option(40.0, "decibels below the loudest at which silence at both ends is cut; 0 for none", low=0)


@dataclass(frozen=True)
class TextOptions:
    """How texts become model input."""

    size: int = option(0, "tokens of a text that are read; 0 takes the backbone's own", low=0)
    normalize: str = option("none", "Unicode normal form that texts are brought into", choices=("none", "nfc", "nfkc"))
    max_bytes: int = option(1_000_000, "longer texts are refused as unreadable", low=1)


@dataclass(frozen=True)
class SplitOptions:
    """Which samples are used, and on which side of the split."""

    test: float = option(
        0.25, "share held out for the final scores where the data has no test split", low=0.01, high=0.9
    )
    val: float = option(0.1, "share held out to choose the best epoch where the data has no val split", low=0, high=0.9)
    class_balanced_sampling: bool = option(False, "draw training samples so that every class is equally frequent")
    max_unreadable: float = option(0.1, "share of unreadable samples above which the run fails", low=0, high=1)


@dataclass(frozen=True)
class Labels:
    """What labels are called."""

    label_map: str = option("", "table of from, to and perhaps source: labels renamed, or left out where to is empty")


@dataclass(frozen=True)
class MixtureOptions:
    """How much of what is learned from comes from each source, or is in each language."""

    weights: str = option("", "shares of the drawn training samples, such as a=1, b=2")
    temperature: float = option(1.0, "T of shares by size to the power of 1/T: 1 as they are, more is evener", low=0.01)
    uniform: bool = option(False, "in place of both, equal shares")
    column: str = option("source", "column whose values have the shares", choices=("source", "language"))
    epoch_length: str = option(
        "samples", "an epoch has as many as there are, or sees the largest once", choices=("samples", "largest")
    )


@dataclass(frozen=True)
class Evaluate:
    """What the final scores are of."""

    leave_out: str = option("", "language, source or column=value of which nothing is learned, and all is tested")


@dataclass(frozen=True)
class VerifyOptions:
    """The gate that every exported file passes."""

    max_drop: float = option(0.02, "score that a quantized file may lose", low=0, high=1)
    max_drop_float: float = option(0.001, "score that a float file may lose", low=0, high=1)


@dataclass(frozen=True)
class CacheOptions:
    """Where downloads and frozen features are kept between runs."""

    dir: str = option("", "folder of the cache; by default $TFX_FINETUNE_CACHE or ~/.cache/tfx_finetune")
    enabled: bool = option(True, "keep the frozen trunk's outputs for the next run")
    max_bytes: int = option(
        20_000_000_000, "size of the kept outputs above which those longest unused are removed; 0 for no limit", low=0
    )
    precision: str = option("float32", "in which the trunk's outputs are kept", choices=("float32", "float16"))


@dataclass(frozen=True)
class MetadataOptions:
    """What the exported files say about themselves."""

    name: str = option("", "of the model; by default the name of the work folder")
    version: str = option("1", "of the model")
    author: str = option("", "who made it")
    license: str = option("", "under which it is passed on; by default that of the pretrained weights")


@dataclass(frozen=True)
class Run:
    """All that determines a run; `run.cfg` in the work folder is its text form."""

    data: str = option("", "folder, table file or source spec to train on, such as photos/ or tfds('mnist')")
    sources: str = option("", "several of them in place of --data, by name: a=folder('x'), b=tfds('mnist')")
    backbone: str = option("usual", "pretrained tower; usual for that of --init, or efficientnet_lite0()")
    init: str = option(
        "", "bundle of an earlier run from whose weights, labels that both have included, this one starts"
    )
    add_language: str = option("", "language that the bundle of --init, which has heads by language, gets a head for")
    teacher: str = option("", "bundles, separated by commas, whose mean answer the heads learn beside the labels")
    heads: str = option("classify()", "what to predict: classify(), tag(), detect(), segment(); several by name")
    label_translations: str = option(
        "", "names of classes in other languages: a table of label, language, text, or such a source"
    )
    train_languages: str = option("", "languages of the column language to learn from, separated by commas; all")
    test_languages: str = option("", "languages to test on, separated by commas; all")
    auxiliary_losses: str = option("", "what is learned beside the labels, from features: align(), dann(), coral()")
    heads_by: str = option("", "column such as language, whose value names the one head that is asked about a sample")
    unknown_group: str = option(
        "fail", "what becomes of samples without a head of their own", choices=("fail", "skip", "shared")
    )
    strategy: str = option(
        "joint",
        "how phase tune takes languages: together, apart and then merged, or one after another",
        choices=("joint", "per_language_then_merge", "sequential"),
    )
    merge: str = option("average()", "how models become one: average(), task_arithmetic() or ties()")
    language_order: str = option("", "order of languages for --strategy=sequential; by default the largest first")
    rehearsal: float = option(
        0.0, "share of earlier languages' samples that --strategy=sequential replays", low=0, high=1
    )
    augment: str = option(
        "usual", "random changes of training samples or batches, in order; usual for those of the modality"
    )
    compress: str = option("", "what makes the trained model smaller, in order: prune(), cluster(), qat()")
    exports: str = option(
        "usual", "files to write into the bundle; usual for Keras, SavedModel, and TFLite in float32, float16 and int8"
    )
    calibration_samples: int = option(
        64, "training samples, balanced over the classes, on which int8 files are calibrated", low=1
    )
    constraints: str = option("", "limits of the file that becomes model_best.tflite, such as size<2MB, drop<0.01")
    workdir: str = option("", "folder for everything the run writes; by default runs/ and the name of the data")
    deterministic: bool = option(False, "refuse what could differ in the last digit between two runs on one GPU")
    seed: int = option(0, "seed of the split, the initialization, the data order and the augmentation", low=0)
    batch_size: int = option(32, "samples a training step", low=1)
    towers: str = option(
        "", "towers by name, in place of --backbone; one takes the data's column of its name, or of its modality"
    )
    fusion: str = option("late()", "how several towers become one")
    modality_dropout: float = option(
        0.2, "chance that what one of several towers takes is left out of a training sample", low=0, high=0.9
    )
    plugins: str = option("", plugins.HELP)
    preset: str = option("balanced", "what training may cost: it sets the phases' defaults", choices=tuple(PRESETS))
    # Without a value, those of the budget.
    frozen: Phase = field(default=cast(Phase, None))
    finetune: Phase = field(default=cast(Phase, None))
    distill: DistillOptions = field(default_factory=DistillOptions)
    image: ImageOptions = field(default_factory=ImageOptions)
    audio: AudioOptions = field(default_factory=AudioOptions)
    text: TextOptions = field(default_factory=TextOptions)
    split: SplitOptions = field(default_factory=SplitOptions)
    labels: Labels = field(default_factory=Labels)
    mixture: MixtureOptions = field(default_factory=MixtureOptions)
    evaluate: Evaluate = field(default_factory=Evaluate)
    verify: VerifyOptions = field(default_factory=VerifyOptions)
    metadata: MetadataOptions = field(default_factory=MetadataOptions)
    cache: CacheOptions = field(default_factory=CacheOptions)

    def __post_init__(self) -> None:
        warm, tune = PRESETS.get(self.preset, PRESETS["balanced"])
        object.__setattr__(self, "warm", self.frozen or warm)
        object.__setattr__(self, "tune", self.finetune or tune)

    def modality_options(self, modality: str) -> dict[str, object]:
        """Return the options of a modality; empty for the modality of a plug-in, which keeps its defaults."""
        group = getattr(self, modality, None)
        return dataclasses.asdict(group) if dataclasses.is_dataclass(group) and not isinstance(group, type) else {}


def iter_options(config: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field, Any]]:
    """Yields `(dotted name, field, value)` of every option of a configuration, nested ones included."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            yield from iter_options(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", item, value


def extract_run(options: Run) -> Run:
    """The run alone in the options of a command that has more of them."""
    return Run(**{item.name: getattr(options, item.name) for item in dataclasses.fields(Run)})


def with_preset(run: Any, preset: str) -> Any:
    """The run with the phases of another budget."""
    return dataclasses.replace(run, budget=preset, warm=None, tune=None)


def replace_options(config: Any, values: dict[str, Any]) -> Any:
    """Returns `config` with the options of these dotted names replaced.

    Raises:
        UserError: A name is unknown.
    """
    nested: dict[str, dict[str, Any]] = {}
    plain: dict[str, Any] = {}
    names = {item.name for item in dataclasses.fields(config)}
    for name, value in values.items():
        head, _, rest = name.partition(".")
        if head not in names:
            raise UserError("unknown option", got=name, hint=did_you_mean(head, names))
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            plain[head] = value
    plain |= {head: replace_options(getattr(config, head), rest) for head, rest in nested.items()}
    return dataclasses.replace(config, **plain)


def validate(config: Any) -> None:
    """Raises a `UserError` for the first option whose value is of a wrong type or outside what it allows."""
    for name, item, value in iter_options(config):
        kind = cast(type, item.type)
        low, high, choices = (item.metadata[key] for key in ("low", "high", "choices"))
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits = isinstance(value, kind) or (kind is float and number)
        if not fits or (isinstance(value, bool) and kind is not bool):
            raise UserError(f"--{name} has a wrong type", got=repr(value), expected=kind.__name__)
        if choices and value not in choices:
            raise UserError(f"--{name} is not one of its choices", got=value, expected=choices)
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            limits = f"at least {low}" if high is None else f"{low} to {high}"
            raise UserError(f"--{name} is out of range", got=value, expected=limits)
