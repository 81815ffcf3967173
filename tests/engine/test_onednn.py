"""What the engine relies on in oneDNN and in Paddle's layers: these tests notice when a release changes it."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from cifar_hapi.engine import layers, memory, onednn, primitives
from cifar_hapi.engine.memory import Buffer, layout
from cifar_hapi.engine.onednn import Call, Desc
from cifar_hapi.engine.primitives import Convolution, Geometry

pytestmark = pytest.mark.skipif(onednn.library_path() is None, reason="this Paddle carries no oneDNN")


def reordered(array, tag, dtype="float32", source_tag="nchw"):
    """The bytes of `array` in another layout."""
    source, target = Buffer(Desc(array.shape, "float32", source_tag)), Buffer(Desc(array.shape, dtype, tag))
    source.floats()[:] = array.ravel()
    Call(primitives.reorder(source.desc, target.desc), {"src": source.memory, "dst": target.memory}).run()
    return target


MAP = np.arange(2 * 32 * 3 * 2, dtype="float32").reshape(2, 32, 3, 2)


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("nchw", MAP),
        ("oihw", MAP),
        ("nhwc", MAP.transpose(0, 2, 3, 1)),
        ("blocked", MAP.reshape(2, 2, 16, 3, 2).transpose(0, 1, 3, 4, 2)),
    ],
)
def test_layouts_are_what_their_names_say(tag, expected):
    np.testing.assert_array_equal(reordered(MAP, tag).floats(), expected.ravel())


def test_grouped_weights_are_plain():
    weights = np.arange(2 * 3 * 4 * 2 * 2, dtype="float32").reshape(2, 3, 4, 2, 2)
    np.testing.assert_array_equal(reordered(weights, "goihw", source_tag="goihw").floats(), weights.ravel())


def test_images_are_views_of_a_map_in_both_layouts():
    np.testing.assert_array_equal(reordered(MAP, "nhwc").image(), MAP.transpose(0, 2, 3, 1))
    blocked = reordered(MAP, "blocked").image()
    np.testing.assert_array_equal(blocked.reshape(2, 3, 2, 32), MAP.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(("tiles", "expected"), [(False, "blocked"), (True, "nhwc")])
def test_large_maps_in_bfloat16_are_in_blocks_unless_tiles_are_multiplied(tiles, expected, monkeypatch):
    monkeypatch.setattr(memory, "multiplies_tiles", lambda: tiles)
    assert layout((8, 64, 32, 32), "bfloat16") == expected


@pytest.mark.skipif(
    onednn.library_path() is None or not onednn.multiplies_tiles(), reason="this CPU does not multiply tiles"
)
def test_channels_last_all_directions_of_a_convolution_multiply_tiles():
    src, dst = Desc((4, 32, 8, 8), "bfloat16"), Desc((4, 64, 8, 8), "bfloat16")
    geometry = Geometry((3, 3), before=(1, 1), after=(1, 1))
    convolution = Convolution(src, Desc((64, 32, 3, 3), "bfloat16", "any"), None, dst, geometry)
    forward = convolution.forward()
    found = forward, convolution.backward_data(forward), convolution.backward_weights(forward)
    assert all("amx" in each.implementation for each in found)


def test_bfloat16_is_the_upper_half_of_float32():
    values = np.array([[[[1.0, -2.5]]], [[[3.140625, 0.0]]]], "float32")
    found = reordered(values, "nchw", "bfloat16").array.view(np.uint16)
    np.testing.assert_array_equal(found, values.ravel().view(np.uint32) >> 16)


def test_a_failed_call_names_primitive_shapes_and_reason():
    source, weights, result = Desc((1, 3, 8, 8)), Desc((4, 5, 3, 3), "float32", "any"), Desc((1, 4, 8, 8))
    convolution = Convolution(source, weights, None, result, Geometry((3, 3), before=(1, 1), after=(1, 1)))
    with pytest.raises(onednn.OneDNNError, match=r"convolution_forward.*\(1, 3, 8, 8\) \* \(4, 5, 3, 3\).*invalid"):
        convolution.forward()


def test_what_has_only_reference_code_is_seen():
    plain, blocked = Desc((1, 16, 4, 4), "float32", "nchw"), Desc((1, 16, 4, 4), "float32", "blocked")
    mixed = Convolution(
        plain, Desc((16, 16, 3, 3), "float32", "oihw"), None, blocked, Geometry((3, 3), (1, 1), (1, 1), (1, 1))
    )
    assert not mixed.forward().fast


@pytest.mark.parametrize(
    ("padding", "before", "after"),
    [(1, (1, 1), (1, 1)), ([1, 2], (1, 2), (1, 2)), ([0, 1, 2, 3], (0, 2), (1, 3)), ("SAME", None, None)],
)
def test_paddings_of_convolutions(padding, before, after):
    conv = nn.Conv2D(4, 6, (3, 2), stride=(1, 2), padding=padding, dilation=2, groups=2)
    if before is None:
        assert layers.kind(conv) is None
        return
    assert layers.kind(conv) == "convolution"
    assert layers.convolution_geometry(conv) == Geometry((3, 2), (1, 2), before, after, (2, 2), 2)


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.BatchNorm2D(3), "norm"),
        (nn.BatchNorm2D(3, use_global_stats=False), "norm"),
        (nn.BatchNorm2D(3, weight_attr=False), None),
        (nn.BatchNorm(3), None),
        (nn.MaxPool2D(2), "pool"),
        (nn.MaxPool2D(2, return_mask=True), None),
        (nn.AvgPool2D(2, ceil_mode=True), None),
        (nn.AvgPool2D(2, divisor_override=3), None),
        (nn.AdaptiveAvgPool2D(1), "pool"),
        (nn.AdaptiveAvgPool2D(2), None),
        (nn.Conv2D(3, 3, 3, padding=1, padding_mode="circular"), None),
        (nn.ReLU(), "relu"),
        (nn.GELU(), "activation"),
        (nn.Silu(), "activation"),
        (nn.Sigmoid(), None),
    ],
)
def test_what_the_engine_takes_for_known(layer, kind):
    assert layers.kind(layer) == kind


def test_what_is_read_from_batch_norm():
    norm = nn.BatchNorm2D(3, momentum=0.7, epsilon=0.01, data_format="NHWC")
    assert (layers.momentum(norm), layers.epsilon(norm), layers.channels_last(norm)) == (0.7, 0.01, True)
    assert layers.uses_batch_statistics(norm)
    norm.eval()
    assert not layers.uses_batch_statistics(norm)
    assert not layers.uses_batch_statistics(nn.BatchNorm2D(3, use_global_stats=True))


def test_hooks_are_seen():
    layer = nn.ReLU()
    assert not layers.has_hooks(layer)
    hook = layer.register_forward_pre_hook(lambda *arguments: None)
    assert layers.has_hooks(layer)
    hook.remove()
    layer.register_forward_post_hook(lambda *arguments: None)
    assert layers.has_hooks(layer) and paddle.__version__


def strided_backward_weights(incoming, outgoing=8):
    src, dst = Desc((4, incoming, 16, 16), "float32", "nhwc"), Desc((4, outgoing, 8, 8), "float32", "nhwc")
    weights = Desc((outgoing, incoming, 1, 1), "float32", "any")
    convolution = Convolution(src, weights, None, dst, Geometry((1, 1), (2, 2)))
    return convolution.backward_weights(convolution.forward())


@pytest.mark.parametrize("incoming", [1, 4, 7, 8, 15])
def test_the_kernel_that_writes_past_its_workspace_is_refused(incoming):
    try:
        assert not strided_backward_weights(incoming).implementation.startswith("jit_1x1")
    except onednn.Unimplemented as refused:
        assert "writes past its workspace" in str(refused)


@pytest.mark.parametrize("incoming", [16, 24, 40])
def test_gradients_of_the_weights_of_strided_projections_are_right_where_there_is_a_kernel(incoming):
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(4, incoming, 16, 16)).astype("float32"), rng.normal(size=(4, 8, 8, 8)).astype("float32")
    source, gradient = reordered(x, "nhwc"), reordered(g, "nhwc")
    primitive = strided_backward_weights(incoming)
    found, scratch = Buffer(primitive.diff_weights), Buffer(primitive.scratchpad)
    plain = Buffer(Desc((8, incoming, 1, 1), "float32", "oihw"))
    memories = {"src": source, "diff_dst": gradient, "diff_weights": found, "scratchpad": scratch}
    onednn.set_threads(2)
    Call(primitive, {name: buffer.memory for name, buffer in memories.items()}).run()
    Call(primitives.reorder(found.desc, plain.desc), {"src": found.memory, "dst": plain.memory}).run()
    expected = np.einsum("nohw,nihw->oi", g, x[:, :, ::2, ::2])
    np.testing.assert_allclose(plain.floats().reshape(8, incoming), expected, rtol=1e-4, atol=1e-4)
