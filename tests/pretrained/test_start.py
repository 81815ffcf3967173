"""Weights of every make go into our networks, whole or not at all."""

from __future__ import annotations

import os
import struct
import warnings

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_weights import MAKES, arrays, save_own, tiny_network, torch_arrays
from safetensors.numpy import save, save_file

from cifar_hapi.errors import DataError
from cifar_hapi.networks import build_network
from cifar_hapi.pretrained import put_weights, read_weights, weights_file


def image(seed=0):
    return paddle.to_tensor(np.random.default_rng(seed).standard_normal((2, 3, 32, 32)).astype("float32"))


@pytest.mark.parametrize(("make", "name"), [*((make, "resnet18") for make in MAKES), ("Paddle's pdparams", "resnet50")])
def test_weights_of_every_make_give_the_same_network(tmp_path, make, name):
    save, file, names = MAKES[make]
    theirs, ours = tiny_network(name=name), tiny_network(seed=2, name=name)
    save(theirs, tmp_path / file)
    start = put_weights(ours, read_weights(tmp_path / file))
    assert (start.file, start.names, start.head, start.classes) == (file, names, "kept", 7)
    assert arrays(ours).keys() == arrays(theirs).keys()
    for key, array in arrays(theirs).items():
        np.testing.assert_array_equal(arrays(ours)[key], array)


@pytest.mark.parametrize("make", MAKES)
def test_a_head_of_other_classes_stays_fresh_and_all_else_is_taken(tmp_path, make, recwarn):
    save, file, _ = MAKES[make]
    theirs, ours = tiny_network(), tiny_network(num_classes=10, seed=2)
    fresh = arrays(ours)
    save(theirs, tmp_path / file)
    start = put_weights(ours, read_weights(tmp_path / file))
    assert (start.head, start.classes) == ("replaced", 7)
    for key, array in arrays(ours).items():
        np.testing.assert_array_equal(array, fresh[key] if key.startswith("head.") else arrays(theirs)[key])
    assert [str(each.message) for each in recwarn if "Skip loading" in str(each.message)] == []


def test_what_paddle_vision_has_saved_computes_what_paddle_vision_computes(tmp_path):
    paddle.seed(0)
    theirs = paddle.vision.models.resnet18(num_classes=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paddle.save(theirs.state_dict(), str(tmp_path / "r.pdparams"))
    ours = build_network("resnet18", num_classes=5, stem="imagenet")
    put_weights(ours, read_weights(tmp_path / "r.pdparams"))
    ours.eval(), theirs.eval()
    expected = theirs(image()).numpy()
    np.testing.assert_allclose(ours(image()).numpy(), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_precisions_become_float32(tmp_path, dtype):
    theirs, ours = tiny_network(), tiny_network(seed=2)
    save_file({name: array.astype(dtype) for name, array in arrays(theirs).items()}, tmp_path / "w.safetensors")
    put_weights(ours, read_weights(tmp_path / "w.safetensors"))
    for key, array in arrays(theirs).items():
        assert arrays(ours)[key].dtype == np.float32
        np.testing.assert_allclose(arrays(ours)[key], array, atol=1e-3)


def test_the_weights_of_any_of_our_networks_can_be_begun_with(tmp_path):
    theirs, ours = (build_network("airbench", num_classes=classes, width=8) for classes in (10, 3))
    save_own(theirs, tmp_path / "w.safetensors")
    assert put_weights(ours, read_weights(tmp_path / "w.safetensors")).head == "replaced"


def without(tensors, *names):
    return {name: array for name, array in tensors.items() if name not in names}


def named(**tensors):
    return lambda found: {**found, **{name.replace("__", "."): array for name, array in tensors.items()}}


ONES = np.ones(4, "float32")


def test_every_name_that_is_missing_is_listed(tmp_path):
    save, file, _ = MAKES["Paddle's names as safetensors"]
    save(tiny_network(), tmp_path / file)
    tensors = dict(read_weights(tmp_path / file).tensors)
    kept = list(tensors)[:5]
    save_file({name: tensors[name] for name in kept}, tmp_path / file)
    with pytest.raises(DataError) as refused:
        put_weights(tiny_network(seed=2), read_weights(tmp_path / file))
    missing = [name for name in tensors if name not in kept]
    assert len(missing) == 97 and all(f"{name}: none, here " in str(refused.value) for name in missing)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda found: without(found, "bn1.weight"), "stem must be those of the file: bn1.weight: none, here [4]"),
        (lambda found: without(found, "fc.weight"), "fc.weight: none, here [32, 7]"),
        (lambda found: without(found, "fc.bias"), "fc.bias: none, here [7]"),
        (named(extra=ONES), "extra: [4], here none"),
        (named(bn1__weight=np.ones(5, "float32")), "bn1.weight: [5], here [4]"),
        (named(conv1__weight=np.ones((4, 3, 3, 3), "float32")), "conv1.weight: [4, 3, 3, 3], here [4, 3, 7, 7]"),
        (named(fc__weight=np.ones((16, 9), "float32")), "fc.weight: [16, 9], here [32, 7]"),
        (named(fc__weight=np.ones((7, 32), "float32")), "fc.weight: [7, 32], here [32, 7]"),
        (named(fc__weight=np.ones(7, "float32")), "fc.weight: [7], here [32, 7]"),
        (lambda found: {"x" * 200: ONES}, f"; it has {'x' * 40}"),
        (lambda found: {f"encoder.{name}": array for name, array in found.items()}, "; it has encoder.bn1._mean, "),
        (lambda found: {}, "by cifar-hapi or paddle.vision or torchvision's names; it has nothing"),
        (named(bn1__weight=ONES * np.nan), "bn1.weight has values that are infinite or no number"),
        (named(bn1__weight=ONES.astype("float64") * 1e300), "bn1.weight has values that are infinite or no number"),
        (named(bn1___variance=-ONES), "bn1._variance has a variance below 0"),
        (named(bn1__weight=ONES.astype(bool)), "bn1.weight is bool, which is no number"),
        (named(**{"x" * 300: ONES}), "has a name of 300 letters"),
        (named(bn1__weight=ONES.reshape(4, *[1] * 9)), "10 dimensions: no weights"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line_and_changes_nothing(tmp_path, change, problem):
    save, file, _ = MAKES["Paddle's names as safetensors"]
    theirs, ours = tiny_network(), tiny_network(seed=2)
    save(theirs, tmp_path / file)
    tensors = dict(read_weights(tmp_path / file).tensors)
    save_file(change(tensors), tmp_path / file)
    before = arrays(ours)
    with pytest.raises(DataError) as refused:
        put_weights(ours, read_weights(tmp_path / file))
    message = str(refused.value)
    assert message.startswith(f"{tmp_path / file}: ") and problem in message
    assert "\n" not in message and len(message) < 700 + len(str(tmp_path))
    assert all(np.array_equal(array, before[name]) for name, array in arrays(ours).items())


def test_torch_weights_are_told_in_their_own_names_and_layout(tmp_path):
    tensors = torch_arrays(tiny_network())
    tensors.pop("bn1.running_var")
    tensors["fc.weight"] = np.ones((7, 31), "float32")
    save_file(tensors, tmp_path / "t.safetensors")
    with pytest.raises(DataError, match=r"bn1\.running_var: none, here \[4\]; fc\.weight: \[7, 31\], here \[7, 32\]"):
        put_weights(tiny_network(), read_weights(tmp_path / "t.safetensors"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty; expected a .pdparams or a .safetensors file"),
        (b"<html>Not Found</html>", "holds no weights; expected"),
        (b"PK\x03\x04 as torch.save writes", "is a zip file, as PyTorch saves; write it anew with safetensors"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "holds a number of 10 bytes"),  # as PyTorch before 1.6 saved
        (struct.pack("<Q", 2**62) + b"{}", "is no safetensors file that NumPy can read"),
        (struct.pack("<Q", 9) + b'{"a":1}  ', "is no safetensors file that NumPy can read"),
        (struct.pack("<Q", 80) + b'{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'.ljust(80) + b"\0\0", ""),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content, problem):
    (tmp_path / "w").write_bytes(content)
    try:
        found = read_weights(tmp_path / "w")
    except DataError as error:
        assert str(error).startswith(f"{tmp_path / 'w'}: ") and problem in str(error) and "\n" not in str(error)
    else:  # some versions of safetensors give NumPy a bfloat16
        assert problem == ""
        with pytest.raises(DataError, match=f"^{tmp_path / 'w'}: "):
            put_weights(tiny_network(), found)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    cases = {"pipe": "is no file", ".": "Is a directory", "nowhere": "No such file", "a\0b": "cannot be read"}
    for path, problem in cases.items():
        with pytest.raises(DataError, match=problem):
            read_weights(tmp_path / path)


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(weights_file, "MAX_BYTES", 1000)
    (tmp_path / "w").write_bytes(b"\x80" * 1001)
    with pytest.raises(DataError, match="is larger than 1000 bytes: no weights of a network that is here"):
        read_weights(tmp_path / "w")


def test_a_safetensors_file_that_begins_as_a_pickle_does_is_read(tmp_path):
    """The first byte is the lowest of the header's size."""
    for length in range(256):
        content = save({"x" * length: np.ones(2, "float32")})
        if content[:1] == b"\x80":
            (tmp_path / "w.safetensors").write_bytes(content)
            assert list(read_weights(tmp_path / "w.safetensors").tensors) == ["x" * length]
            return
    raise AssertionError("no length of a name gives such a size")


SAFETENSORS = save({"fc.weight": np.zeros((3, 2), "float32"), "bn1._mean": np.zeros(2, "float32")})


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.data())
def test_a_damaged_safetensors_file_is_read_or_refused(tmp_path_factory, data):
    content = bytearray(SAFETENSORS)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, min(start + 4, len(content))))
        content[start:end] = data.draw(st.binary(max_size=4) | st.sampled_from([b"9" * 12, b"[" * 4, b"F64", b"-1"]))
    file = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    file.write_bytes(bytes(content))
    try:
        read_weights(file)
    except DataError as error:
        assert str(error).startswith(f"{file}: ") and "\n" not in str(error) and len(str(error)) < 600
