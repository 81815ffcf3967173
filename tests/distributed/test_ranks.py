"""What processes tell each other: as it was, and nothing that is executed."""

from __future__ import annotations

import io
import pickle

import numpy as np
import paddle
import pytest

from cifar_hapi.distributed import ranks


class Trap:
    sprung = False

    def __reduce__(self):
        return (setattr, (Trap, "sprung", True))


def saved(**arrays):
    """As `numpy.savez` has them, objects too."""
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    return packed.getvalue()


@pytest.fixture
def wire(monkeypatch):
    """Two processes, of which this is the first; the second sends what `wire` is set to, or echoes."""
    others = []

    def all_gather(found, tensor):
        own = tensor.numpy()
        if tensor.dtype == paddle.int64:
            found += [tensor, paddle.to_tensor([len(others[0])]) if others else tensor]
        else:
            other = np.frombuffer(others[0].ljust(len(own), b"\0"), np.uint8) if others else own
            found += [tensor, paddle.to_tensor(other)]

    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setattr(ranks.distributed, "all_gather", all_gather)
    return others


@pytest.mark.parametrize("value", [None, 0.1 + 0.2, {"a": [1, None, "\udcff \x1b"]}, float("inf"), "x" * 5000])
def test_values_arrive_as_they_were(wire, value):
    assert ranks.gathered(value) == [value, value]
    assert ranks.of_the_first(value) == value


def test_arrays_arrive_as_they_were(wire):
    arrays = {"output 0": np.arange(6, dtype="float32").reshape(2, 3), "ending": np.array(15), "none": np.zeros((0, 4))}
    for found in ranks.gathered_arrays(arrays):
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype and found[name].shape == array.shape
            np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("own", [b"", b"short", b"a longer one than that of the other"])
def test_each_may_have_another_length(wire, own):
    wire.append(b"the other's")
    assert ranks.gathered_bytes(own) == [own, b"the other's"]


@pytest.mark.parametrize(
    "sent", [pickle.dumps(Trap()), saved(trap=np.array([Trap()], object)), pickle.dumps(np.array([Trap()], object))]
)
def test_a_pickle_is_refused_unread(wire, sent):
    wire.append(sent)
    for gather, own in ((ranks.gathered, {}), (ranks.gathered_arrays, {"own": np.zeros(3)})):
        with pytest.raises((ValueError, OSError)):
            gather(own)
    assert not Trap.sprung
