import paddle
import pytest

from cifar_hapi.errors import RecipeError
from cifar_hapi.networks import build_network, network_names
from cifar_hapi.networks.registry import NETWORKS, Network


def test_the_networks_of_the_papers_are_there():
    assert network_names() == [
        *("resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
        *("plain20", "plain32", "plain44", "plain56"),
        *("resnet18", "resnet34", "resnet50", "speednet", "airbench", "airbench11"),
    ]


def test_each_network_is_described_in_one_line():
    for network in NETWORKS.values():
        assert 20 < len(network.summary) < 100
        assert "\n" not in network.summary


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet21"}, "network.name = 'resnet21' is not a known network; did you mean resnet"),
        ({"name": "spednet"}, "did you mean speednet?"),
        ({"name": "zzz"}, "known are resnet20, resnet32,"),
        ({"name": "resnet20", "shortcut": "C"}, "network.shortcut = 'C' is not possible; take 'A' or 'B'"),
        ({"name": "resnet20", "shortcuts": "A"}, "network.shortcuts = 'A': resnet20 has no such key; did"),
        ({"name": "resnet20", "shortcuts": "A"}, "did you mean shortcut?"),
        ({"name": "resnet20", "stem": "cifar"}, "resnet20 has no such key"),
        ({"name": "plain20", "shortcut": "A"}, "plain20 has no such key; it has num_classes, width, data_format"),
        ({"name": "resnet18", "stem": "mnist"}, "take 'cifar' or 'imagenet'"),
        ({"name": "airbench", "activation": "selu"}, "take 'relu' or 'gelu'"),
        ({"name": "resnet20", "activation": "gelu"}, "resnet20 has no such key"),
        ({"name": "airbench", "whitening": "none"}, "take 'strongest' or 'all'"),
        ({"name": "resnet18", "num_clases": "5"}, "did you mean num_classes?"),
        ({"name": "speednet", "width": 0}, "network.width = 0 is not possible; take a whole number"),
        ({"name": "speednet", "width": 1.5}, "network.width = 1.5 "),
        ({"name": "speednet", "width": True}, "network.width = True "),
        ({"name": "speednet", "num_classes": -1}, "network.num_classes = -1 "),
        ({"name": "speednet", "data_format": "CHWN"}, "network.data_format = 'CHWN' .*'NCHW' or 'NHWC'"),
    ],
)
def test_what_cannot_be_built_is_refused_by_key_value_and_way_out(arguments, message):
    with pytest.raises(RecipeError, match=message.replace("?", r"\?")):
        build_network(**arguments)


@pytest.mark.parametrize(("name", "published"), [("resnet20", 16), ("resnet18", 64), ("speednet", 64)])
def test_without_a_width_a_network_is_as_wide_as_published(name, published):
    assert build_network(name).stem.conv.weight.shape[0] == published
    assert build_network(name, width=6).stem.conv.weight.shape[0] == 6


def test_the_first_value_of_an_option_is_its_default():
    for name, network in NETWORKS.items():
        first = {key: values[0] for key, values in network.options.items()}
        shapes = [
            {key: tuple(value.shape) for key, value in build_network(name, width=4, **options).state_dict().items()}
            for options in ({}, first)
        ]
        assert shapes[0] == shapes[1]


def test_a_network_of_ones_own_joins_with_one_line(monkeypatch):
    def build_mine(num_classes, width, data_format, depth):
        return paddle.nn.Sequential(*[paddle.nn.Linear(width, num_classes) for _ in depth])

    monkeypatch.setitem(NETWORKS, "mine", Network(build_mine, "mine", width=3, options={"depth": ("x", "xx")}))
    assert "mine" in network_names()
    network = build_network("mine", num_classes=5, depth="xx")
    assert len(network) == 2
    assert list(network[0].weight.shape) == [3, 5]
