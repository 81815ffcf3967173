# %% [markdown]
# # 3. 从模块开始搭建残差网络
#
# ## 卷积、归一化、激活
#
# 这里的网络都由 `cifar_hapi/networks/layers.py` 中的几种层组成。最小的一种是卷积后接批归一化和 ReLU。
# 卷积没有偏置：即使有，也会被批归一化减掉，何况批归一化自带平移量。

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
# ## 残差块
#
# 两个这样的层，再加一条绕过它们的捷径：残差块只需算出应当**加**到输入上的部分
# （He et al. 2015，arXiv 1512.03385）。如果什么都不必加，卷积核变成 0 即可，输入就原样通过。
# 没有捷径的卷积堆叠则必须自己学会这一点。


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
# 把最后一个归一化的缩放系数设为 0，残差块对经过 ReLU 的非负输入就是恒等映射：

# %%
features = stem(images)
block.second.norm.weight.set_value(paddle.zeros([16]))
assert bool((block(features) == features).all())

# %% [markdown]
# 如果某个阶段把尺寸减半、通道数加倍，捷径也必须跟着变。
# `cifar_hapi.networks.resnet.BasicBlock` 有两种做法：每隔一个像素取一个，并补上全零的通道
# （“A”，论文在 CIFAR 上的选择）；或者用 1x1 卷积做投影（“B”）。
#
# ## 整个网络
#
# 输入层，三个阶段的残差块（通道数为 16、32、64，特征图边长为 32、16、8 像素），每个通道求平均，最后是一个线性层。
# 每个阶段三个残差块，一共是 1 + 3 x 3 x 2 + 1 = 20 层：

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
# `build_network("resnet20")` 得到的是同样的网络。参数量与论文一致，为 27 万：

# %%
from cifar_hapi.networks.registry import build_network, network_names


def parameters(network):
    return sum(parameter.size for parameter in network.parameters())


print(parameters(mine), parameters(build_network("resnet20")))
assert parameters(mine) == parameters(build_network("resnet20"))
print(", ".join(network_names()))

# %% [markdown]
# ## 捷径为什么重要
#
# 第一层的梯度要穿过后面所有的层才能传回来。批归一化能让很深的普通网络的**特征图**保持正常的尺度，
# 但梯度仍然会逐层增大或减小。下面比较有捷径和没有捷径的网络：
# 训练开始时，第一层的梯度范数与最后一个阶段的梯度范数之比。

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
# ## 使用 Paddle 自带的网络，换一个输出层
#
# `paddle.vision.models.resnet18` 是为 ImageNet 的 1,000 个类别设计的：64 张 224x224 的图像得到 [64, 1000]。
# （设 `pretrained=True` 时，Paddle 会下载权重，而读取权重时会执行 pickle；见下文。）

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
# 只有十个类别时，换掉最后一层即可，其余各层学到的内容都可以保留：

# %%
network.fc = nn.Linear(512, 10)
with paddle.no_grad():
    out = network(large)
print(out.shape)
assert out.shape == [64, 10]

# %% [markdown]
# `paddle.save(network.state_dict(), "resnet18.pdparams")` 把权重写成 pickle，
# 而加载 pickle 就等于执行作者放在里面的任何代码。
# 本项目用 safetensors 保存权重，其中只有数值；读取 `.pdparams` 时也不执行任何内容：

# %%
import tempfile
from pathlib import Path

from cifar_hapi.pretrained import read_weights

path = Path(tempfile.mkdtemp()) / "resnet18.pdparams"
paddle.save(network.state_dict(), str(path))
found = read_weights(path)
print(len(found.tensors), "tensors;", "first:", next(iter(found.tensors)), "sha256:", found.sha256[:12])

# %% [markdown]
# Netron（netron.app，或 `pip install netron && netron resnet18.pdparams`）可以画出这样的文件。
# 训练也可以从这样的文件开始，参数名按 Paddle 或 torchvision 的都行；类别不同时，最后一层会重新初始化：
#
# ```sh
# cifar-hapi train article-32 --weights resnet18.pdparams
# ```
#
# 下一篇：[训练它](4_training.md)。
