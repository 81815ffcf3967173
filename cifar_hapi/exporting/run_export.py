"""From a run to a folder that holds its network in a format for use elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import paddle
from paddle import nn

from callbacks.durable import sync_folder, write_new_file
from cifar_hapi.data.normalisation import normalise
from cifar_hapi.errors import RecipeError
from cifar_hapi.exporting import onnx_format, paddle_format
from cifar_hapi.exporting.agreement import Agreement, compare
from cifar_hapi.exporting.conversion import OPSET
from cifar_hapi.exporting.int8 import Int8, Int8Options, make_int8
from cifar_hapi.exporting.metadata import facts_of
from cifar_hapi.exporting.network import input_spec, network_to_export, taken
from cifar_hapi.exporting.sample import Sample, own_data, sample_images
from cifar_hapi.loading import Weights, load
from cifar_hapi.run import Run
from cifar_hapi.runtime import paddle_session, versions

Format = Literal["paddle", "onnx"]


@dataclass(frozen=True, eq=False)
class Export:
    """What `export` wrote; as text, a few lines.

    path: the folder. files: what is in it: the model, its parameters where they are apart, metadata.json. metadata:
    what that says. agreement: how the model, loaded again, compares with the run's network; of an int8 export, the
    float32 model that it was made of. int8: how these two compare, None of others. missing: why it was not compared
    on the run's own images, "" where it was; this and `path` alone name folders of this machine.
    """

    path: Path
    files: tuple[Path, ...]
    metadata: dict[str, Any]
    agreement: Agreement
    int8: Int8 | None = None
    missing: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for programs."""
        return {"path": str(self.path), "files": [str(file) for file in self.files], "metadata": self.metadata}

    def __str__(self) -> str:
        entry, accuracy = self.metadata["input"], self.metadata["accuracy"]
        shape = ", ".join(map(str, entry["shape"]))
        known = f"{accuracy['top1']:.2%} of {accuracy['images']:,} images of {accuracy['data']}" if accuracy else ""
        rows = [
            ("export", str(self.path)),
            *(("", f"{file.name}, {_size(file.stat().st_size)}") for file in self.files),
            ("input", f"{entry['dtype']} [{shape}], {entry['values']}"),
            ("top-1", known or "not evaluated"),
            *(self.int8.rows() if self.int8 else ()),
            ("agrees", ("before int8, " if self.int8 else "") + str(self.agreement)),
            ("on", "{}, in batches of {} and {}".format(self.agreement.images, *self.agreement.batch_sizes)),
            *([("", f"as the run's own cannot be had: {self.missing}")] if self.missing else ()),
        ]
        return "\n".join(f"{label:9}{text}" for label, text in rows)


def export(
    run: Run | str | Path,
    *,
    format: Format = "paddle",
    fold_bn: bool = False,
    uint8_input: bool = False,
    int8: bool = False,
    calibration_images: int | None = None,
    max_fall: float | None = None,
    out: str | Path | None = None,
    weights: Weights = "latest",
    data_dir: str | Path | None = None,
) -> Export:
    """Write a run's network for use without this package, and see that it says the same there.

    format: "paddle", Paddle's inference format (model.json and model.pdiparams; of Paddle 2.6 model.pdmodel), or
    "onnx" (model.onnx; needs the extra `onnx` and Paddle 3). The model takes any number of images of the size that the
    recipe says and gives logits, float32 [N, C]. fold_bn: batch norm becomes part of the convolutions. uint8_input: it
    takes uint8 [N, H, W, 3] and normalises itself; else float32 [N, 3, H, W], normalised by the run's mean and standard
    deviation. It is float32 and channels first, whatever the recipe says. int8: an ONNX model, batch norm folded, in
    whole numbers of 8 bits (`quantisation.quantise`), whose ranges are those of `calibration_images` training images
    (512); input and logits stay what they are. This needs the run's own images: both models see all its test images,
    and top-1 must not fall by more than `max_fall` percentage points (1). out: a new folder, by default RUN/export/
    and a name that tells the options. data_dir: where the run's test images are looked for.

    The files are written beside `out`, loaded by paddle.inference or onnxruntime, and compared with the run's network
    in float32, run by Paddle's own kernels, on 64 test images (generated ones where these are not on this machine:
    `Agreement.images` says so, `missing` why), each alone and all together. Then the folder is renamed to `out`.

    Raises RecipeError for options that cannot be and a folder that is there already, RunError for a run or weights that
    can't be used, ImportError where the extra is missing, DataError where test images are not in `data_dir`, and
    CifarHapiError, leaving nothing behind, where logits differ by more than 0.001, as a share of the largest logit if
    that is above 1, or int8 costs too much accuracy.
    """
    run = run if isinstance(run, Run) else Run(run)
    fold_bn = fold_bn or int8
    target = _checked(run, format, int8, out, _name(format, fold_bn, uint8_input, int8, weights))
    int8_options = Int8Options.checked(int8, calibration_images, max_fall)
    with paddle_session("cpu"):
        trained = load(run, weights, engine="native").network
        sample = sample_images(run, data_dir)
        data = own_data(run, data_dir) if int8 else None
        network = network_to_export(run, trained, sample.pixels, fold_bn, uint8_input)
        own = _own_logits(run, trained, sample)
        facts = {**facts_of(run, weights, uint8_input, fold_bn), **_origin(format)}
        with _new_folder(target) as folder:
            spec = input_spec(run, uint8_input)
            if format == "onnx":
                file = onnx_format.write(network, spec, folder, facts)
                answer = onnx_format.open_model(file)
            else:
                answer = paddle_format.open_model(paddle_format.write(network, spec, folder))
            found = compare(own, answer, taken(run, sample.pixels, uint8_input), sample.source)
            metadata, cost = {**facts, "agreement": found.to_dict()}, None
            if data is not None:
                cost = make_int8(file, run, data, facts, uint8_input, int8_options)
                metadata |= {"accuracy": cost.accuracy, "int8": cost.to_dict()}
            write_new_file(folder / "metadata.json", (json.dumps(metadata, indent=1) + "\n").encode())
    return Export(target, tuple(sorted(target.iterdir())), metadata, found, cost, sample.missing)


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _checked(run: Run, format: str, int8: bool, out: str | Path | None, name: str) -> Path:
    """The folder to write; what cannot be is told before anything is read."""
    if format not in ("paddle", "onnx"):
        raise RecipeError(f"format = {format!r}: expected paddle or onnx")
    if int8 and format != "onnx":
        raise RecipeError("int8 is for ONNX alone; add --format onnx")
    target = run.path / "export" / name if out is None else Path(out)
    if target.exists() or target.is_symlink():
        raise RecipeError(f"{target}: exists already; remove it, or name another folder with --out")
    if format == "onnx":
        onnx_format.check_libraries(int8)
    return target


def _name(format: str, fold_bn: bool, uint8_input: bool, int8: bool, weights: str) -> str:
    options = {"int8": int8, "folded": fold_bn and not int8, "uint8": uint8_input, "best": weights == "best"}
    return "-".join([format, *(option for option, asked in options.items() if asked)])


def _origin(format: Format) -> dict[str, Any]:
    """The format, and what wrote it."""
    onnx = format == "onnx"
    opset = OPSET if onnx else None
    return {
        "format": format,
        "opset": opset,
        "versions": {**versions(), **(onnx_format.library_versions() if onnx else {})},
    }


def _own_logits(run: Run, trained: nn.Layer, sample: Sample) -> np.ndarray:
    """What the run's network, as it was loaded, says of the images: float32 [N, C]."""
    images = normalise(sample.pixels, run.data.mean, run.data.std, run.recipe.data_format("cpu"))
    with paddle.no_grad():
        return trained(paddle.to_tensor(images)).numpy()


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` when all has gone well, and is gone when not."""
    made = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        yield beside
        beside.chmod(0o755)  # mkdtemp's 0700 would hide results from one's group
        _sync(beside)
        beside.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)  # after the renaming there is none
        for folder in made:
            with suppress(OSError):  # it holds the export, or what another process has put there
                folder.rmdir()
    sync_folder(target.parent)


def _sync(folder: Path) -> None:
    """Make all files of `folder` survive a power cut; Paddle's own writers leave that to the system."""
    for path in folder.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    sync_folder(folder)
