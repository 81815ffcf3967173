# %% [markdown]
# # 2. The pictures
#
# CIFAR-10 as this project holds it, the same as a `DataLoader` of 224x224 images, and what a network is really
# shown.
#
# ## Fifty thousand images are one array
#
# `auto` finds CIFAR-10 in the folder that `CIFAR_HAPI_DATA` names or in the user's cache, and downloads it
# where there is a network. Else it generates images of ten shapes and textures, in the same format; `note` then
# says so.

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
# The first ten training images with their labels:


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
# `cifar-hapi data show` draws such a grid in the terminal, of images of each class in turn.
#
# ## As a DataLoader of large images
#
# Networks made for ImageNet were trained on 224x224 pixels. Feeding them CIFAR-10 with Paddle's own tools means
# to enlarge each image, to bring its values from 0..255 to 0..1, and to normalise by the mean and deviation of
# ImageNet's channels:

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
# An image of 32x32 pixels has 3 KB, enlarged and as float32 it has 600 KB: the 50,000 would be 30 GB, so they
# are made again in every epoch, one by one. A network sees no more in them than in the small ones, and computes
# 49 times as much.
#
# ## As this project feeds them
#
# Images stay uint8 in one array; a batch is gathered, varied and normalised as a whole:

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
# Mean and deviation are near 0 and 1, since they are those of the images that are trained on, in each channel.
# What the network sees of the first image in five epochs, say: shifted by up to four pixels, and mirrored or
# not.

# %%
from cifar_hapi.data.augment import augment, draw_choices

augmentation = Augmentation(crop_padding=4, flip="random")
first = np.repeat(data.train.images[:1], 5, axis=0)
choices = draw_choices((32, 32), np.zeros(5, int), 0, np.random.default_rng(0), augmentation)
seen = augment(first, choices, augmentation)
show(seen, np.repeat(data.train.labels[:1], 5))

# %% [markdown]
# Next: [a network for them](3_residual_network.md).
