# %% [markdown]
# # 3. A residual network, from its blocks up
#
# ## A convolution, a norm, an activation
#
# All networks here are made of the few layers in `cifar_hapi/networks/layers.py`. The smallest is a convolution
# followed by batch norm and ReLU. The convolution has no bias: batch norm would subtract it again, and adds a
# shift of its own.

# %%
import paddle
from paddle import nn

from cifar_hapi.networks.layers import Classifier, ConvNorm, GlobalAveragePool, ResidualJoin

paddle.seed(0)
images = paddle.randn([2, 3, 32, 32])
stem = ConvNorm(3, 16, kernel_size=3)
print(stem)
print(stem(images).shape)

# %% [markdown]
# ## A block
#
# Two of them, and a shortcut around both: the block computes what must be *added* to its input (He et al. 2015,
# arXiv 1512.03385). If nothing must, its filters may become 0, and the block passes its input through. A stack
# of convolutions without a shortcut would have to learn that.


# %%
class Block(nn.Layer):
    """relu(x + second(first(x))), for maps that keep their size."""

    def __init__(self, channels):
        super().__init__()
        self.first = ConvNorm(channels, channels, 3)
        self.second = ConvNorm(channels, channels, 3, activation=None)
        self.join = ResidualJoin()

    def forward(self, x):
        return self.join(self.second(self.first(x)), x)


block = Block(16)
print(block(stem(images)).shape)

# %% [markdown]
# With scale 0 in the last norm, the block is the identity on what ReLU has made positive:

# %%
features = stem(images)
block.second.norm.weight.set_value(paddle.zeros([16]))
assert bool((block(features) == features).all())

# %% [markdown]
# Where a stage halves the size and doubles the channels, the shortcut has to do so too.
# `cifar_hapi.networks.resnet.BasicBlock` does it in two ways: it takes every other pixel and adds channels of
# zeros ("A", the paper's choice for CIFAR), or projects by a 1x1 convolution ("B").
#
# ## The network
#
# A stem, three stages of blocks with 16, 32 and 64 channels on maps of 32, 16 and 8 pixels, the mean of each
# channel, and a linear layer. With three blocks in each stage these are 1 + 3 x 3 x 2 + 1 = 20 layers:

# %%
from cifar_hapi.networks.resnet import BasicBlock

stages, channels = [], 16
for out_channels, stride in ((16, 1), (32, 2), (64, 2)):
    for place in range(3):
        step = stride if place == 0 else 1
        stages.append(BasicBlock(channels, out_channels, step, "NCHW", shortcut="A"))
        channels = out_channels
mine = nn.Sequential(ConvNorm(3, 16, 3), *stages, GlobalAveragePool(), Classifier(64, 10))

x = images
for layer in mine:
    x = layer(x)
    print(f"{type(layer).__name__:18} {x.shape}")

# %% [markdown]
# `build_network("resnet20")` is the same. Its number of parameters is the paper's 0.27 million:

# %%
from cifar_hapi.networks.registry import build_network, network_names


def parameters(network):
    return sum(parameter.size for parameter in network.parameters())


print(parameters(mine), parameters(build_network("resnet20")))
assert parameters(mine) == parameters(build_network("resnet20"))
print(", ".join(network_names()))

# %% [markdown]
# ## Why the shortcut matters
#
# The gradient of the first layer has to come through all others. Batch norm keeps the *maps* of a deep plain
# network in shape; the gradients still grow or shrink from layer to layer. Here are its norms in the first
# layer at the start, relative to those in the last stage, in networks with shortcuts and without:

# %%
import paddle.nn.functional as F

labels = paddle.to_tensor([3, 7])


def gradient_ratio(name):
    """The gradient norm of the first convolution over that of the last one, at the start."""
    paddle.seed(0)
    network = build_network(name)
    F.cross_entropy(network(images), labels).backward()
    convolutions = [layer for layer in network.sublayers() if isinstance(layer, nn.Conv2D)]
    first, last = (float(layer.weight.grad.norm()) for layer in (convolutions[0], convolutions[-1]))
    return first / last


for depth in (20, 56):
    for kind in ("resnet", "plain"):
        print(f"{kind}{depth:3}  first / last gradient norm: {gradient_ratio(f'{kind}{depth}'):.3g}")

# %% [markdown]
# ## A network of Paddle's, with another head
#
# `paddle.vision.models.resnet18` was made for the 1,000 classes of ImageNet: 64 images of 224x224 pixels become
# [64, 1000]. (With `pretrained=True` Paddle downloads weights, and reads them by running a pickle; see below.)

# %%
from cifar_hapi import accelerate

network = paddle.vision.models.resnet18(pretrained=False)
accelerate(network)  # the same results, some times as fast on a CPU; see docs/performance.md
network.eval()
large = paddle.rand([64, 3, 224, 224])
with paddle.no_grad():
    out = network(large)
print(out.shape)
assert out.shape == [64, 1000]

# %% [markdown]
# For ten classes the last layer is replaced. All others may keep what they have learnt:

# %%
network.fc = nn.Linear(512, 10)
with paddle.no_grad():
    out = network(large)
print(out.shape)
assert out.shape == [64, 10]

# %% [markdown]
# `paddle.save(network.state_dict(), "resnet18.pdparams")` writes its weights as a pickle, and whoever loads a
# pickle runs what its author put into it. This project saves weights as safetensors, which hold numbers alone,
# and reads `.pdparams` without running anything:

# %%
import tempfile
from pathlib import Path

from cifar_hapi.pretrained import read_weights

path = Path(tempfile.mkdtemp()) / "resnet18.pdparams"
paddle.save(network.state_dict(), str(path))
found = read_weights(path)
print(len(found.tensors), "tensors;", "first:", next(iter(found.tensors)), "sha256:", found.sha256[:12])

# %% [markdown]
# Netron (netron.app, or `pip install netron && netron resnet18.pdparams`) draws such a file. And a training begins with
# one, Paddle's names or torchvision's, with a fresh last layer where the classes are others:
#
# ```sh
# cifar-hapi train article-32 --weights resnet18.pdparams
# ```
#
# Next: [training it](4_training.md).
