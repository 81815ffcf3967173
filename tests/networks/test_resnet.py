import numpy as np
import paddle
import pytest

from cifar_hapi.errors import RecipeError
from cifar_hapi.networks import build_network
from cifar_hapi.networks.layers import PadShortcut
from cifar_hapi.networks.resnet import cifar_resnet
from cifar_hapi.pretrained.names import vision_name


def parameter_count(network):
    return sum(int(np.prod(p.shape)) for p in network.parameters() if not p.stop_gradient)


@pytest.mark.parametrize(
    ("name", "options", "exact", "published"),
    [
        ("resnet20", {}, 269_722, 0.27),  # millions: He et al. 2015, table 6
        ("resnet32", {}, 464_154, 0.46),
        ("resnet44", {}, 658_586, 0.66),
        ("resnet56", {}, 853_018, 0.85),
        ("resnet110", {}, 1_727_962, 1.7),
        ("resnet20", {"shortcut": "B"}, 272_474, None),
        ("resnet20", {"norm": "none"}, 269_034, None),  # 688 biases for as many scales and shifts
        ("plain20", {}, 269_722, None),
        ("plain20", {"norm": "none"}, 269_034, None),
        ("plain32", {}, 464_154, None),
        ("plain44", {}, 658_586, None),
        ("plain56", {}, 853_018, None),
        ("resnet18", {}, 11_173_962, None),
        # As paddle.vision and torchvision have them.
        ("resnet18", {"stem": "imagenet", "num_classes": 1000}, 11_689_512, None),
        ("resnet34", {"stem": "imagenet", "num_classes": 1000}, 21_797_672, None),
        ("resnet50", {"stem": "imagenet", "num_classes": 1000}, 25_557_032, None),
    ],
)
def test_parameters_are_as_many_as_published(name, options, exact, published):
    count = parameter_count(build_network(name, **options))
    assert count == exact
    if published:
        digits = len(str(published).split(".")[1])
        assert round(count / 1e6, digits) == published


def test_option_a_has_no_parameters_in_its_shortcuts_and_option_b_has():
    def shortcuts(option):
        return [key for key in build_network("resnet20", shortcut=option).state_dict() if "shortcut" in key]

    assert shortcuts("A") == []
    assert {key.rsplit(".", 2)[0] for key in shortcuts("B")} == {"stage2.0.shortcut", "stage3.0.shortcut"}


def test_only_blocks_that_change_the_size_need_more_than_an_identity():
    network = build_network("resnet20")
    found = [name for name, layer in network.named_sublayers() if isinstance(layer, PadShortcut)]
    assert found == ["stage2.0.shortcut", "stage3.0.shortcut"]


def test_a_plain_twin_takes_the_state_dict_of_its_resnet_and_computes_something_else():
    paddle.seed(0)
    resnet, plain = build_network("resnet20", width=4), build_network("plain20", width=4)
    state = resnet.state_dict()
    assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in state.items()}
    plain.set_state_dict(state)
    x = paddle.randn([2, 3, 8, 8])
    assert not np.allclose(resnet(x).numpy(), plain(x).numpy(), atol=0.01)


@pytest.mark.parametrize("depth", [2, 18, 21, 0, -4])
def test_a_cifar_depth_that_is_not_6n_plus_2_is_refused(depth):
    with pytest.raises(RecipeError, match=rf"depth = {depth}.*6n\+2"):
        cifar_resnet(depth)


def test_an_unknown_shortcut_is_refused_also_without_the_registry():
    with pytest.raises(RecipeError, match="shortcut = 'C'"):
        cifar_resnet(8, shortcut="C")


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_the_stem_decides_the_size_of_the_feature_maps(stem):
    network = build_network("resnet18", width=4, stem=stem)
    sides = {}
    for name in ("stage1", "stage2", "stage3", "stage4"):
        network[name].register_forward_post_hook(lambda _layer, _in, y, name=name: sides.update({name: y.shape[2]}))
    network(paddle.zeros([1, 3, 64, 64]))
    first = {"cifar": 64, "imagenet": 16}[stem]
    assert list(sides.values()) == [first, first // 2, first // 4, first // 8]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_imagenet_form_computes_what_paddle_vision_computes(name):
    paddle.seed(0)
    theirs = getattr(paddle.vision.models, name)(num_classes=10)
    for (
        key,
        value,
    ) in theirs.state_dict().items():  # norms as after training, so that each has to be in its place
        if value.ndim == 1:
            value.set_value(paddle.rand(value.shape) * 0.5 + (0 if "bias" in key or "mean" in key else 0.75))
    ours = build_network(name, stem="imagenet")
    state = theirs.state_dict()
    assert {vision_name(key) for key in ours.state_dict()} == set(state)
    ours.set_state_dict({key: state[vision_name(key)] for key in ours.state_dict()})
    ours.eval(), theirs.eval()
    x = paddle.randn([2, 3, 64, 64])
    expected = theirs(x).numpy()
    np.testing.assert_allclose(ours(x).numpy(), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
