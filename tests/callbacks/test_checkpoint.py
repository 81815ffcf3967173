"""Checkpoint: which epochs are saved, which is the best, and what survives damage."""

from __future__ import annotations

import hashlib
import json
import os
import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import batches, drive, toy_model

from callbacks import Checkpoint, CheckpointError, CheckpointFolder
from callbacks.checkpoint_folder import Saved

NAN = float("nan")


@pytest.mark.parametrize(
    ("options", "values", "kept", "best"),
    [
        ({}, [0.1, 0.3, 0.2], [2, 3], 2),
        ({"mode": "min"}, [0.3, 0.1, 0.2], [2, 3], 2),
        ({"keep_best": 2}, [0.1, 0.3, 0.2, 0.1], [2, 3, 4], 2),
        ({"keep_best": 2, "every_epochs": None}, [0.3, 0.2, 0.1, 0.1], [1, 2, 4], 1),
        ({}, [0.1, 0.2, 0.3], [3], 3),
        ({}, [NAN, 0.2, NAN], [2, 3], 2),
        ({}, [NAN, NAN], [2], None),
        ({}, [0.2, 0.2], [1, 2], 1),
        ({"monitor": None}, [0.2, 0.3], [2], None),
        ({"keep": 2}, [0.5, 0.1, 0.2, 0.3], [1, 3, 4], 1),
        ({"every_epochs": 2, "monitor": None, "keep": 9}, [0.1] * 5, [2, 4, 5], None),
        ({"every_epochs": 9}, [0.1, 0.2, 0.0], [2, 3], 2),
    ],
)
def test_the_last_and_the_best_are_kept(tmp_path, options, values, kept, best):
    callback = Checkpoint(tmp_path, **{"monitor": "eval_acc", "keep": 1, **options})
    drive(callback, [{"eval_acc": value} for value in values])
    folder = CheckpointFolder(tmp_path)
    assert folder.names() == [f"step-{step:08d}" for step in kept]
    assert folder.labelled("latest") == f"step-{len(values):08d}"
    assert folder.labelled("best") == (best and f"step-{best:08d}")
    assert folder.read(folder.names()[-1]).state["step"] == len(values)


@pytest.mark.parametrize("stock", [False, True], ids=["cifar_hapi.Model", "paddle.Model"])
def test_weights_and_running_statistics_come_back_bit_for_bit(tmp_path, stock):
    model = toy_model(stock)
    model.fit(batches(), batches(), epochs=2, verbose=0, callbacks=Checkpoint(tmp_path, monitor="eval_acc"))
    folder = CheckpointFolder(tmp_path)
    saved = folder.read(folder.labelled("latest"))
    weights, state = saved.weights, saved.state
    expected = {name: tensor.numpy() for name, tensor in model.network.state_dict().items()}
    assert weights.keys() == expected.keys() and any("_variance" in name for name in weights)
    assert all(np.array_equal(weights[name], expected[name]) for name in expected)
    assert state["epoch"] == 2 and state["step"] == 6 and {"loss", "eval_acc"} <= state["metrics"].keys()


def test_an_early_end_is_saved_too(tmp_path):
    model = toy_model()
    model.fit(batches(), epochs=9, num_iters=4, verbose=0, callbacks=Checkpoint(tmp_path, every_epochs=100))
    assert CheckpointFolder(tmp_path).names() == ["step-00000004"]


@pytest.fixture
def written(tmp_path):
    folder = CheckpointFolder(tmp_path / "checkpoints")
    folder.write(7, Saved({"a": np.arange(6, dtype="float32").reshape(2, 3)}, {"epoch": 1}))
    folder.point("latest", "step-00000007")
    return folder


def test_the_same_step_written_again_replaces_the_first(written):
    written.write(7, Saved({"a": np.zeros(1)}, {"epoch": 2}))
    saved = written.read("step-00000007")
    assert saved.weights["a"].shape == (1,) and saved.state == {"epoch": 2} and written.names() == ["step-00000007"]
    assert not list(written.path.glob(".step*"))


@pytest.mark.parametrize("part", ["weights.safetensors", "state.json", "MANIFEST.json"])
@pytest.mark.parametrize("damage", ["remove", "truncate", "flip"])
def test_damage_is_told_by_the_name_of_what_is_damaged(written, part, damage):
    file = written.path / "step-00000007" / part
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x11
    file.unlink()
    if damage != "remove":
        file.write_bytes(data[:-3] if damage == "truncate" else data)
    with pytest.raises(CheckpointError, match="step-00000007"):
        written.read("step-00000007")


@pytest.mark.parametrize("text", ["../../etc", "step-1", "", "step-00000007/..", "\xff"])
def test_a_label_that_names_no_checkpoint_is_refused(written, text):
    (written.path / "latest").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match="names no checkpoint"):
        written.labelled("latest")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.binary(max_size=60), st.integers(0, 400), st.booleans())
def test_mutated_manifests_are_read_or_refused(tmp_path_factory, junk, place, keep_rest):
    folder = CheckpointFolder(tmp_path_factory.mktemp("mutated"))
    name = folder.write(1, Saved({"a": np.ones(3, dtype="float32")}))
    file = folder.path / name / "MANIFEST.json"
    whole = file.read_bytes()
    file.write_bytes(whole[:place] + junk + (whole[place + len(junk) :] if keep_rest else b""))
    try:
        weights = folder.read(name).weights
    except CheckpointError as error:
        assert name in str(error)
    else:
        assert np.array_equal(weights["a"], np.ones(3))


@pytest.mark.parametrize(
    "manifest", ["[]", "{}", '{"files": 3}', '{"files": {"weights.safetensors": {}}}', "[" * 100000]
)
def test_a_manifest_of_the_wrong_shape_is_refused(written, manifest):
    (written.path / "step-00000007" / "MANIFEST.json").write_text(manifest)
    with pytest.raises(CheckpointError, match="damaged"):
        written.read("step-00000007")


def test_a_write_that_fails_leaves_what_was_there(written, monkeypatch):
    def fail(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr("callbacks.checkpoint_folder.write_new_file", fail)
    with pytest.raises(OSError, match="No space"):
        written.write(8, Saved({"a": np.ones(1)}))
    assert written.names() == ["step-00000007"] and not list(written.path.glob(".step*"))
    assert written.read("step-00000007").state == {"epoch": 1}


@pytest.mark.skipif(os.name == "nt", reason="permissions are POSIX")
def test_others_may_read_what_the_umask_lets_them(written):
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (written.path / "step-00000007").iterdir()}
    umask = os.umask(0)
    os.umask(umask)
    assert set(modes.values()) == {0o666 & ~umask}


def test_the_manifest_states_sizes(written):
    manifest = json.loads((written.path / "step-00000007" / "MANIFEST.json").read_text())
    for name, entry in manifest["files"].items():
        assert (written.path / "step-00000007" / name).stat().st_size == entry["size"]


@pytest.mark.parametrize("options", [{"keep": 0}, {"every_epochs": 0}, {"keep_best": 0}, {"every_steps": -1}])
def test_arguments_that_cannot_be_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} = .*at least 1"):
        Checkpoint(tmp_path, **options)


def test_half_a_replacement_is_mended_and_what_a_killed_process_left_is_removed(written):
    aside = written.path / ".step-00000007-abc-replaced"
    (written.path / "step-00000007").rename(aside)
    (written.path / ".step-00000008-xyz").mkdir()
    (written.path / ".latest-xyz").touch()
    written.sweep()
    assert sorted(path.name for path in written.path.iterdir()) == ["latest", "step-00000007"]
    assert written.read("step-00000007").state == {"epoch": 1}


def _link(part):
    part.rename(part.with_name("elsewhere"))
    part.symlink_to("elsewhere")


def _pipe(part):
    part.unlink()
    os.mkfifo(part)


def _huge_header(part):
    part.write_bytes(b"\xff" * 7 + b"\x0f" + part.read_bytes()[8:])


@pytest.mark.skipif(os.name == "nt", reason="links and pipes are POSIX")
@pytest.mark.parametrize("trick", [_link, _pipe, _huge_header])
@pytest.mark.parametrize("part", ["weights.safetensors", "state.json", "MANIFEST.json"])
def test_tricks_are_refused(written, part, trick):
    trick(written.path / "step-00000007" / part)
    with pytest.raises(CheckpointError, match="step-00000007"):
        written.read("step-00000007")


@pytest.mark.parametrize("name", ["../step-00000007", "step-00000007/../step-00000007", "latest", ".", ""])
def test_only_names_of_checkpoints_are_read(written, name):
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        written.read(name)


def test_a_folder_that_is_a_link_is_neither_read_nor_removed(written, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (written.path / "step-00000001").symlink_to(tmp_path / "elsewhere")
    assert written.names() == ["step-00000007"]
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        written.read("step-00000001")
    written.prune(1, set())
    assert (tmp_path / "elsewhere").is_dir()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=8), st.sampled_from(["weights.safetensors", "state.json"]))
def test_parts_that_are_forged_with_a_right_manifest_are_read_or_refused(tmp_path_factory, place, junk, part):
    folder = CheckpointFolder(tmp_path_factory.mktemp("forged"))
    name = folder.write(1, Saved({"a": np.ones(3, dtype="float32")}, {"epoch": 1}))
    data = bytearray((folder.path / name / part).read_bytes())
    place %= len(data)
    data[place : place + len(junk)] = junk
    (folder.path / name / part).write_bytes(data)
    manifest = json.loads((folder.path / name / "MANIFEST.json").read_text())
    manifest["files"][part] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder.path / name / "MANIFEST.json").write_text(json.dumps(manifest))
    try:
        assert isinstance(folder.read(name).state, dict)
    except CheckpointError as error:
        assert name in str(error)
    assert sorted(path.name for path in folder.path.iterdir()) == [name]
