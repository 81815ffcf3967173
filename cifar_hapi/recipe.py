"""The declarative part: what is trained, on what and how, as frozen dataclasses that are checked when they are read.

A recipe comes from a built-in name, a TOML file, or a dictionary; dotted keys override single values::

    >>> recipe = Recipe.load("resnet20", {"epochs": 3, "optimizer.lr": 0.2})
    >>> recipe.optimizer.lr
    0.2
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from cifar_hapi.errors import RecipeError, did_you_mean
from cifar_hapi.regular_file import read_regular

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

_FILE_NAME = r"^[^/\\.\s][^/\\\x00-\x1f]*$"  # runs are called by it
_MOST_BYTES = 2**20  # of a file; the longest that is built in has two thousand

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]
DataFormat = Literal["NCHW", "NHWC"]
Precision = Literal["float32", "bfloat16", "float16"]
Views = Literal["plain", "flip", "flip_shift"]
Metric = Literal["eval_acc", "eval_loss", "acc", "loss"]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DataRecipe:
    """Which images. `limit`: only the first n training images; `val_fraction`: the share of those held out.

    `image_size`: the side in pixels that the network sees; `normalisation`: by mean and standard deviation of the
    images trained on, or of ImageNet's. `on_device`: whether training and validation images live where the network
    runs; `auto`: on a GPU that has room. `store`: the folder in which the pixels of an image folder are kept, decoded;
    by default in the cache, if they are many.
    """

    source: Annotated[str, Field(min_length=1)] = "auto"
    dir: str | None = None
    limit: Count | None = None
    val_fraction: Fraction = 0.1
    image_size: Annotated[int, Field(ge=8, le=1024)] = 32
    normalisation: Literal["own", "imagenet"] = "own"
    on_device: Literal["auto", True, False] = "auto"
    store: Annotated[str, Field(min_length=1)] | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AugmentRecipe:
    """How training images are varied; sizes in pixels. `small_size`: their side in the first `small_epochs`, when all
    else is done; they cost as much less as they have fewer pixels, and later ones the network sees as they are.
    """

    crop_padding: CountOrNone = 0
    padding_mode: Literal["reflect", "zero"] = "reflect"
    flip: Literal["random", "alternating", "none"] = "none"
    cutout: CountOrNone = 0
    small_size: Count | None = None
    small_epochs: CountOrNone = 0


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class NetworkRecipe:
    """Which network. Without `width`, `shortcut`, `norm`, `stem`, `activation`, `whitening`: the usual form.

    Without `num_classes`: the data's. `data_format`: for `auto` see `Recipe.data_format`. `pretrained`: weights to
    begin with, "imagenet" for Paddle's official ones, or a file. `freeze_norm`: batch norm keeps the statistics, scale
    and shift that these have. `sync_batch_norm`: where several processes train, its batch is that of all.
    """

    name: str = "resnet20"
    width: Count | None = None
    num_classes: Annotated[int, Field(ge=2)] | None = None
    data_format: Literal["auto", "NCHW", "NHWC"] = "auto"
    shortcut: Literal["A", "B"] | None = None
    norm: Literal["batch", "none"] | None = None
    stem: Literal["cifar", "imagenet"] | None = None
    activation: Literal["relu", "gelu"] | None = None
    whitening: Literal["strongest", "all"] | None = None
    pretrained: Annotated[str, Field(min_length=1)] | None = None
    freeze_norm: bool = False
    sync_batch_norm: bool = False


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class LossRecipe:
    """Cross-entropy; `label_smoothing` spreads that share of the target over all classes, in training only."""

    label_smoothing: Fraction = 0.0


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ParameterGroup:
    """Parameters with a rate or a decay of their own: those whose name in the network `parameters` fits, as file names
    fit `*.weight`. Where several groups fit, the last counts, key by key."""

    parameters: Annotated[str, Field(min_length=1)]
    lr: Positive | None = None
    weight_decay: NotNegative | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class OptimizerRecipe:
    """The optimiser. `decay_norm`: whether weight decay also pulls at batch norm's scale and shift.

    For `muon`, `lr` and `momentum` are those of the convolutions' filters, `sgd_momentum` is that of all else.
    """

    name: Literal["momentum", "adam", "adamw", "muon"] = "momentum"
    lr: Positive = 0.1
    momentum: Fraction = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 0.0
    decay_norm: bool = False
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    epsilon: Positive = 1e-8
    sgd_momentum: Fraction = 0.85
    groups: tuple[ParameterGroup, ...] = ()


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ScheduleRecipe:
    """How the learning rate moves, step by step, as a multiple of `optimizer.lr`.

    `constant`; `cosine` and `linear` down to `final`; `one_cycle`: linearly up to 1 at `peak` of the
    steps, then linearly down to `final`; `piecewise`: times `gamma` after each of the `milestones` (in epochs).
    `warmup_epochs` rise before.
    """

    name: Literal["constant", "cosine", "linear", "one_cycle", "piecewise"] = "constant"
    warmup_epochs: NotNegative = 0.0
    final: NotNegative = 0.0
    peak: Annotated[float, Field(gt=0, lt=1)] = 0.3
    milestones: tuple[Positive, ...] = ()
    gamma: Positive = 0.1


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class CheckpointRecipe:
    """When all is saved, and by which metric the best are told; where it is not measured, there are no best."""

    every_epochs: Count = 1
    every_steps: Count | None = None
    every_seconds: Positive | None = None
    keep: Count = 1
    keep_best: Count = 1
    monitor: Metric = "eval_acc"
    mode: Literal["auto", "max", "min"] = "auto"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class EarlyStoppingRecipe:
    """When to stop before the last epoch: `patience` epochs without a `monitor` better by `min_delta`."""

    monitor: Metric = "eval_loss"
    mode: Literal["auto", "max", "min"] = "auto"
    patience: Annotated[int, Field(ge=0)] = 5
    min_delta: NotNegative = 0.0
    baseline: float | None = None
    start_epoch: Annotated[int, Field(ge=0)] = 0
    restore_best: bool = False


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class BatchNormStatsRecipe:
    """What is recorded of batch norm, and how often; `probe`: on how many validation images, if there are such."""

    every_epochs: Count | None = 1
    every_steps: Count | None = None
    channels: Literal["summary", "all"] = "summary"
    probe: CountOrNone = 0
    gradients: bool = False


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AveragingRecipe:
    """The weights' exponential moving average, which is evaluated and saved in their place."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    warm_up: bool = True


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class EvaluationRecipe:
    """How the test set is evaluated. `views`: over which views of each image the network's answer is averaged."""

    views: Views = "plain"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Recipe:
    """Everything that a training depends on, but for the machine."""

    name: Annotated[str, Field(pattern=_FILE_NAME, max_length=100)] = "custom"
    description: str = ""
    epochs: Count = 10
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    batch_size: Count = 128
    eval_batch_size: Count = 250
    eval_every_epochs: Count = 1
    engine: Literal["auto", "native", "onednn"] = "auto"
    precision: Precision = "float32"
    data: DataRecipe = Field(default_factory=DataRecipe)
    augment: AugmentRecipe = Field(default_factory=AugmentRecipe)
    network: NetworkRecipe = Field(default_factory=NetworkRecipe)
    loss: LossRecipe = Field(default_factory=LossRecipe)
    optimizer: OptimizerRecipe = Field(default_factory=OptimizerRecipe)
    schedule: ScheduleRecipe = Field(default_factory=ScheduleRecipe)
    checkpoint: CheckpointRecipe = Field(default_factory=CheckpointRecipe)
    early_stopping: EarlyStoppingRecipe | None = None
    averaging: AveragingRecipe | None = None
    bn_stats: BatchNormStatsRecipe | None = None
    evaluation: EvaluationRecipe = Field(default_factory=EvaluationRecipe)

    @staticmethod
    def load(source: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
        """The recipe called `source`, or in the TOML file `source`, with dotted keys overridden.

        Raises RecipeError when it doesn't exist, isn't TOML, or says something that cannot be.
        """
        name, text = _read_source(source)
        try:
            values = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # ValueError: numbers of thousands of digits, too
            raise RecipeError(f"recipe {source}: not valid TOML: {error}") from None
        return Recipe.from_dict({"name": name, **values}, overrides, where=f"recipe {name}")

    @staticmethod
    def from_dict(values: dict[str, Any], overrides: dict[str, Any] | None = None, *, where: str = "recipe") -> Recipe:
        """The recipe that nested `values` (as in TOML or `to_dict`) describe, checked; `where` begins an error."""
        for key, value in (overrides or {}).items():
            values = _overridden(values, key.split("."), value, key)
        try:
            # As JSON: only there do strict dataclasses take plain objects and lists.
            return TypeAdapter(Recipe).validate_json(json.dumps(values, default=str))
        except ValidationError as error:
            raise RecipeError(f"{where}: {_first_complaint(error)}") from None
        except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
            raise RecipeError(f"{where}: cannot be a recipe: {error}") from None

    def with_overrides(self, overrides: dict[str, Any]) -> Recipe:
        """This recipe with dotted keys overridden; checked again."""
        return Recipe.from_dict(self.to_dict(), overrides, where=f"recipe {self.name}")

    def data_format(self, device: str) -> DataFormat:
        """The data format of network and batches on `device` ("cpu", "gpu:0").

        What `network.data_format` says; `auto` is NHWC on a GPU where 16 bits are allowed, else NCHW: cuDNN then
        convolves channels-last, and in float32 Paddle would bring every feature map to NCHW for it and back.
        """
        if self.network.data_format != "auto":
            return self.network.data_format
        return "NHWC" if device.startswith("gpu") and self.precision != "float32" else "NCHW"

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, as they stand in run.json."""
        return dataclasses.asdict(self)

    @model_validator(mode="after")
    def _check_what_spans_keys(self) -> Recipe:
        size, epochs = self.data.image_size, self.epochs
        stopping = self.early_stopping.monitor if self.early_stopping else ""
        checks = [
            (
                "data.store",
                self.data.store,
                self.data.store is None or self.data.source not in ("auto", "cifar10", "cifar100", "synthetic"),
                f"is for image folders; data.source = {self.data.source} is kept in memory; unset one of them",
            ),
            (
                "early_stopping.monitor",
                stopping,
                self.data.val_fraction > 0 or not stopping.startswith("eval_"),
                "needs validation images: data.val_fraction above 0",
            ),
            (
                "augment.crop_padding",
                self.augment.crop_padding,
                self.augment.crop_padding < size,
                f"must be below data.image_size = {size}",
            ),
            (
                "augment.cutout",
                self.augment.cutout,
                self.augment.cutout <= size,
                f"must be at most data.image_size = {size}",
            ),
            (
                "augment.small_size",
                self.augment.small_size,
                self.augment.small_size is None or self.augment.small_size < size,
                f"must be below data.image_size = {size}",
            ),
            (
                "augment.small_epochs",
                self.augment.small_epochs,
                (self.augment.small_epochs > 0) == (self.augment.small_size is not None),
                f"goes with augment.small_size = {self.augment.small_size}: set both or none",
            ),
            (
                "augment.small_epochs",
                self.augment.small_epochs,
                self.augment.small_epochs < epochs,
                f"must be below epochs = {epochs}: the last are to see images as they are evaluated",
            ),
            (
                "schedule.warmup_epochs",
                self.schedule.warmup_epochs,
                self.schedule.warmup_epochs < epochs,
                f"must be below epochs = {epochs}",
            ),
            (
                "schedule.milestones",
                list(self.schedule.milestones),
                list(self.schedule.milestones) == sorted(set(self.schedule.milestones)),
                "must rise",
            ),
            (
                "network.norm",
                self.network.norm,
                self.bn_stats is None or self.network.norm != "none",
                "leaves bn_stats nothing to record; unset one of them",
            ),
            (
                "network.freeze_norm",
                self.network.freeze_norm,
                not self.network.freeze_norm or self.network.norm != "none",
                "network.norm = none leaves nothing to freeze; unset one of them",
            ),
            (
                "network.freeze_norm",
                self.network.freeze_norm,
                not self.network.freeze_norm or self.network.pretrained is not None,
                "a fresh network has no statistics to keep; it needs network.pretrained",
            ),
            (
                "network.sync_batch_norm",
                self.network.sync_batch_norm,
                not self.network.sync_batch_norm or (self.network.norm != "none" and not self.network.freeze_norm),
                "nothing follows batches with network.norm = none or network.freeze_norm; unset one of them",
            ),
            (
                "optimizer.nesterov",
                True,
                not self.optimizer.nesterov or self.optimizer.name == "momentum",
                "needs optimizer.name = momentum",
            ),
        ]
        for key, value, holds, need in checks:
            if not holds:
                raise ValueError(f"{key} = {value}: {need}")
        return self


def by_key(recipe: Recipe) -> dict[str, Any]:
    """What a recipe says, by dotted keys."""
    return _flat(recipe.to_dict())


def differing_keys(one: Recipe, other: Recipe) -> list[str]:
    """The dotted keys in which two recipes differ."""
    flat = [by_key(recipe) for recipe in (one, other)]
    return [key for key in {**flat[0], **flat[1]} if flat[0].get(key) != flat[1].get(key)]


def value_at(values: dict[str, Any], key: str) -> Any:
    """What nested `values`, as of `Recipe.to_dict`, have at a dotted key; None where they have nothing."""
    found: Any = values
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def recipe_names() -> list[str]:
    """The names of the built-in recipes."""
    return sorted(file.name.removesuffix(".toml") for file in _builtin().iterdir() if file.name.endswith(".toml"))


def recipe_text(name: str) -> str:
    """The TOML text of a built-in recipe. Raises RecipeError for an unknown name."""
    if name not in recipe_names():
        raise RecipeError(
            f"no recipe is called {name!r}{did_you_mean(name, recipe_names())}; there are: {', '.join(recipe_names())}"
        )
    return (_builtin() / f"{name}.toml").read_text(encoding="utf-8")


def overrides_by_key(**named: Any) -> dict[str, Any]:
    """Overrides from the short names that `fit` and the command line share; what is None is not overridden.

    >>> overrides_by_key(epochs=3, data="cifar10", seed=None)
    {'epochs': 3, 'data.source': 'cifar10'}
    """
    keys = {"data": "data.source", "data_dir": "data.dir", "weights": "network.pretrained"}
    given = {keys.get(name, name): value for name, value in named.items() if value is not None}
    return {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}


def parse_override(text: str) -> tuple[str, Any]:
    """Key and value of `KEY=VALUE`; the value is read as TOML, a bare word is a string.

    `none` unsets the key, but where it is one of the key's words, as in augment.flip.

    >>> parse_override("optimizer.lr=0.2"), parse_override("augment.flip=random")
    (('optimizer.lr', 0.2), ('augment.flip', 'random'))
    """
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not (key and equals and value):
        raise RecipeError(f"override {text!r}: expected KEY=VALUE, such as optimizer.lr=0.2")
    if value == "none":
        return key, value if _knows_the_word_none(key) else None
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def _knows_the_word_none(key: str) -> bool:
    section, _, name = key.partition(".")
    return section in _SECTIONS and "'none'" in str(get_type_hints(_SECTIONS[section]).get(name))


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    pairs = [(f"{prefix}{key}", value) for key, value in values.items()]
    nested = [_flat(value, f"{key}.") if isinstance(value, dict) else {key: value} for key, value in pairs]
    return {key: value for part in nested for key, value in part.items()}


def _builtin() -> Any:
    return resources.files(__package__) / "recipes"


def _read_source(source: str | Path) -> tuple[str, str]:
    path = Path(source)
    if isinstance(source, str) and path.suffix != ".toml":
        if path.is_file():
            raise RecipeError(f"recipe {source}: is a file whose name does not end in .toml; rename it")
        return source, recipe_text(source)
    try:
        return path.stem, read_regular(path, _MOST_BYTES, RecipeError, "no recipe").decode("utf-8")
    except RecipeError as error:
        raise RecipeError(f"recipe {error}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"recipe {source}: cannot be read: not UTF-8 text") from None


def _overridden(values: dict[str, Any], path: list[str], value: Any, key: str) -> dict[str, Any]:
    first, *rest = path
    if not rest:
        return {**values, first: value}
    inner = {} if values.get(first) is None else values[first]
    if not isinstance(inner, dict):
        raise RecipeError(f"override {key}: {first} is a value, not a section")
    return {**values, first: _overridden(inner, rest, value, key)}


def _first_complaint(error: ValidationError) -> str:
    """One line for the first thing that is wrong: key, value, and the way out."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("function-", "constrained-")))
    if first["type"] == "unexpected_keyword_argument":
        return f"{key} is not a key{_key_meant(key)}"
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    message = first["msg"][:1].lower() + first["msg"][1:]
    words = re.findall(r"'(\w+)'", first["ctx"]["expected"]) if first["type"] == "literal_error" else ()
    return f"{key} = {first['input']!r}: {message}{did_you_mean(first['input'], words)}"


def _key_meant(wrong: str) -> str:
    """The end of an error's text: of the keys in its section the nearest, else one of its name elsewhere, or all."""
    section, dot, name = wrong.rpartition(".")
    names = [known for where, _, known in (key.rpartition(".") for key in known_keys()) if where == section]
    every = f"; {section or 'a recipe'} has {', '.join(names)}" if names else ""
    elsewhere = [key for key in known_keys() if key.rpartition(".")[2] == name]
    return did_you_mean(name, names, section + dot) or (f"; did you mean {elsewhere[0]}?" if elsewhere else every)


def known_keys() -> list[str]:
    """Every key of a recipe, dotted, sections included."""
    keys = []
    for field in dataclasses.fields(Recipe):
        keys.append(field.name)
        section = _SECTIONS.get(field.name)
        keys += [f"{field.name}.{inner.name}" for inner in dataclasses.fields(section)] if section else []
    return keys


_SECTIONS: dict[str, Any] = {
    "data": DataRecipe,
    "augment": AugmentRecipe,
    "network": NetworkRecipe,
    "loss": LossRecipe,
    "optimizer": OptimizerRecipe,
    "schedule": ScheduleRecipe,
    "checkpoint": CheckpointRecipe,
    "early_stopping": EarlyStoppingRecipe,
    "averaging": AveragingRecipe,
    "bn_stats": BatchNormStatsRecipe,
    "evaluation": EvaluationRecipe,
}
