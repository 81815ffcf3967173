"""What holds for each network, in both data formats."""

import re

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle.nn import Conv2D, Linear

from cifar_hapi.networks import build_network, network_names

KINDS = [  # one of each kind, small
    ("resnet20", {"width": 4}),
    ("resnet20", {"width": 4, "shortcut": "B"}),
    ("resnet20", {"width": 4, "shortcut": "B", "norm": "none"}),
    ("plain20", {"width": 4}),
    ("resnet18", {"width": 4}),
    ("resnet18", {"width": 4, "stem": "imagenet"}),
    ("resnet50", {"width": 4}),
    ("speednet", {"width": 4}),
    ("airbench", {"width": 4}),
    ("airbench", {"width": 4, "activation": "gelu", "whitening": "all"}),
    ("airbench11", {"width": 4, "activation": "gelu"}),
]
each_kind = pytest.mark.parametrize(
    ("name", "options"), KINDS, ids=[f"{n}-{'-'.join(map(str, o.values()))}" for n, o in KINDS]
)
both_formats = pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])


def images(n, height, width=None, data_format="NCHW"):
    x = np.random.default_rng(0).standard_normal((n, 3, height, width or height)).astype("float32")
    return paddle.to_tensor(x if data_format == "NCHW" else x.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("name", network_names())
def test_the_number_in_a_name_is_the_layers_on_the_main_path(name):
    layers = [
        key
        for key, layer in build_network(name, width=4).named_sublayers()
        if isinstance(layer, Conv2D | Linear) and "shortcut" not in key
    ]
    assert len(layers) == int(*re.findall(r"\d+", name) or [{"speednet": 9, "airbench": 8}[name]])


@both_formats
@pytest.mark.parametrize("name", network_names())
def test_each_network_answers_with_logits(name, data_format):
    network = build_network(name, num_classes=7, width=4, data_format=data_format)
    logits = network(images(2, 32, data_format=data_format))
    assert list(logits.shape) == [2, 7]
    assert np.isfinite(logits.numpy()).all()


@both_formats
@each_kind
@pytest.mark.parametrize("size", [(33, 27), (224, 224)])
def test_other_sizes_work(name, options, data_format, size):
    network = build_network(name, data_format=data_format, **options)
    assert list(network(images(1, *size, data_format=data_format)).shape) == [1, 10]


@pytest.fixture
def float64():
    """Small networks amplify float32's rounding to a percent of a gradient; float64 leaves no such excuse."""
    paddle.set_default_dtype("float64")
    yield
    paddle.set_default_dtype("float32")


def both_from_one_state_dict(name, options):
    paddle.seed(0)
    first = build_network(name, data_format="NCHW", **options)
    for parameter in first.parameters():  # at the start, some networks take back what a batch norm's scale does
        parameter.set_value(parameter + 0.1 * paddle.randn(parameter.shape, parameter.dtype))
    second = build_network(name, data_format="NHWC", **options)
    second.set_state_dict(first.state_dict())
    return (first, "NCHW"), (second, "NHWC")


@each_kind
def test_both_data_formats_give_the_same_gradients_and_running_statistics(name, options, float64):
    results = []
    for network, data_format in both_from_one_state_dict(name, options):
        x = images(4, 64 if "stem" in options else 17, data_format=data_format).astype("float64")
        F.cross_entropy(network(x), paddle.to_tensor([1, 2, 3, 4])).backward()
        results.append({k: p.numpy() if p.stop_gradient else p.grad.numpy() for k, p in network.named_parameters()})
    for key, expected in results[0].items():
        np.testing.assert_allclose(results[1][key], expected, rtol=1e-8, atol=1e-8, err_msg=key)
        assert np.abs(expected).max() > 1e-6, f"{key} is not used"


@each_kind
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_both_data_formats_give_the_same_logits(name, options, mode):
    logits = []
    for network, data_format in both_from_one_state_dict(name, options):
        getattr(network, mode)()
        logits.append(network(images(4, 64 if "stem" in options else 17, data_format=data_format)).numpy())
    np.testing.assert_allclose(logits[1], logits[0], rtol=1e-4, atol=1e-4)


@each_kind
def test_a_seed_gives_the_same_weights_again(name, options):
    def weights(seed):
        paddle.seed(seed)
        return {key: value.numpy() for key, value in build_network(name, **options).state_dict().items()}

    once, again, other = weights(0), weights(0), weights(1)
    assert all(np.array_equal(once[key], again[key]) for key in once)
    assert any(not np.array_equal(once[key], other[key]) for key in once)


@both_formats
@each_kind
def test_a_training_step_lowers_the_loss(name, options, data_format):
    paddle.seed(0)
    network = build_network(name, data_format=data_format, **options)
    optimizer = paddle.optimizer.SGD(0.01, parameters=network.parameters())
    x, labels = images(8, 32, data_format=data_format), paddle.arange(8)
    before = F.cross_entropy(network(x), labels)
    before.backward()
    optimizer.step()
    assert float(F.cross_entropy(network(x), labels)) < float(before)
    assert all(p.grad is not None for p in network.parameters() if not p.stop_gradient)


@each_kind
def test_a_network_can_be_traced_whole(name, options):
    network = build_network(name, data_format="NHWC", **options)
    network.eval()
    x = images(2, 32, data_format="NHWC")
    expected = network(x).numpy()
    spec = [paddle.static.InputSpec([None, 32, 32, 3], "float32")]
    traced = paddle.jit.to_static(network, input_spec=spec, full_graph=True)
    np.testing.assert_allclose(traced(x).numpy(), expected, rtol=1e-4, atol=1e-4)
