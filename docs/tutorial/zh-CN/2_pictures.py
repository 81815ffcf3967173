# %% [markdown]
# # 2. 图像
#
# CIFAR-10 在本项目中的存放方式，把它做成 224x224 图像的 `DataLoader`，以及网络实际看到的是什么。
#
# ## 五万张图像就是一个数组
#
# `auto` 会在 `CIFAR_HAPI_DATA` 指定的目录或用户缓存中查找 CIFAR-10，找不到而又有网络时就下载。
# 都不行时，它会生成十类形状和纹理的图像，格式相同；`note` 会说明这一点。

# %%
import matplotlib.pyplot as plt
import numpy as np
import paddle
from paddle.vision import transforms
from PIL import Image

from cifar_hapi.data.sources import open_data
from cifar_hapi.recipe import DataRecipe

data = open_data(DataRecipe(source="auto", val_fraction=0.0))
print(data.name, data.note)
print(data.train.images.shape, data.train.images.dtype, data.train.labels.shape, data.train.labels.dtype)
print(data.train.class_names)

# %% [markdown]
# 前十张训练图像及其标签：


# %%
def show(images, labels, columns=5):
    """uint8 images [N, H, W, 3] in a grid, with the names of their classes."""
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.5 * columns, 1.7 * rows))
    for axis, image, label in zip(axes.flat, images, labels, strict=True):
        axis.imshow(image)
        axis.set_title(data.train.class_names[label], fontsize=9)
        axis.axis("off")
    figure.tight_layout()
    plt.show()


show(data.train.images[:10], data.train.labels[:10])

# %% [markdown]
# `cifar-hapi data show` 在终端里画出这样的图，每个类别轮流取图像。
#
# ## 大图像的 DataLoader
#
# 为 ImageNet 设计的网络是用 224x224 像素的图像训练的。要用 Paddle 自带的工具把 CIFAR-10 喂给它们，
# 就得把每张图像放大，把像素值从 0..255 变到 0..1，再按 ImageNet 各通道的均值和标准差归一化：

# %%
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
prepare = transforms.Compose([transforms.Resize(224), transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


class Enlarged(paddle.io.Dataset):
    """Images of `part` as float32 [3, 224, 224], and their labels."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def __len__(self):
        return len(self.part)

    def __getitem__(self, place):
        return prepare(Image.fromarray(self.part.images[place])), self.part.labels[place]


batch, labels = next(iter(paddle.io.DataLoader(Enlarged(data.train), batch_size=64, shuffle=True)))
print(batch.shape, labels.shape)
assert batch.shape == [64, 3, 224, 224]

# %% [markdown]
# 一张 32x32 的图像只有 3 KB，放大并转成 float32 之后是 600 KB：五万张就是 30 GB，
# 所以每一轮都要一张一张地重新生成。网络从中看到的信息并不比小图像多，计算量却是 49 倍。
#
# ## 本项目的做法
#
# 图像一直以 uint8 存放在一个数组里；取出、增强和归一化都以整个批次为单位进行：

# %%
from cifar_hapi.data.augment import Augmentation
from cifar_hapi.data.loader import BatchLoader

loader = BatchLoader(
    data.train,
    batch_size=128,
    mean=data.mean,
    std=data.std,
    augmentation=Augmentation(crop_padding=4, flip="random"),
    shuffle=True,
)
images, labels = next(iter(loader))
print(images.shape, images.dtype, labels.shape)
print("mean of each channel", images.mean(axis=(0, 2, 3)), "deviation", images.std(axis=(0, 2, 3)))

# %% [markdown]
# 均值和标准差分别接近 0 和 1，因为所用的正是训练图像各通道的均值和标准差。
# 下面是网络在五轮里可能看到的第一张图像：平移至多四个像素，有时左右翻转。

# %%
from cifar_hapi.data.augment import augment, draw_choices

augmentation = Augmentation(crop_padding=4, flip="random")
first = np.repeat(data.train.images[:1], 5, axis=0)
choices = draw_choices((32, 32), np.zeros(5, int), 0, np.random.default_rng(0), augmentation)
seen = augment(first, choices, augmentation)
show(seen, np.repeat(data.train.labels[:1], 5))

# %% [markdown]
# 下一篇：[处理这些图像的网络](3_residual_network.md)。
