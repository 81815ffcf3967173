# %% [markdown]
# # 4. Training, watching, evaluating
#
# ## By hand
#
# What every training does: a batch, the loss, its gradients, a step of the optimiser. Adam with a rate of
# 0.001, the loss printed every 10 steps; one epoch of a narrow ResNet-20 on 2,500 images here, so that it takes
# seconds on a CPU.

# %%
import numpy as np
import paddle
import paddle.nn.functional as F

from cifar_hapi import accelerate
from cifar_hapi.data.loader import BatchLoader
from cifar_hapi.data.sources import open_data
from cifar_hapi.networks.registry import build_network
from cifar_hapi.recipe import DataRecipe

data = open_data(DataRecipe(source="auto", limit=2500, val_fraction=0.0))
print(data.name, len(data.train), "images to train on,", len(data.test), "to test")

paddle.seed(0)
network = build_network("resnet20", width=8)
accelerate(network)
optimizer = paddle.optimizer.Adam(0.001, parameters=network.parameters())
batches = BatchLoader(data.train, 64, mean=data.mean, std=data.std, shuffle=True)

network.train()
for step, (images, labels) in enumerate(batches, start=1):
    loss = F.cross_entropy(network(paddle.to_tensor(images)), paddle.to_tensor(labels))
    loss.backward()
    optimizer.step()
    optimizer.clear_grad()
    if step % 10 == 0:
        print(f"step {step}: loss {float(loss):.3f}")

# %% [markdown]
# ## The accuracy
#
# In evaluation mode, over the test set. A loop that ends after its first batch, by a `break` or an indent too
# few, gives a number, too: that of 64 images.

# %%
network.eval()
right = []
for images, labels in BatchLoader(data.test, 64, mean=data.mean, std=data.std):
    with paddle.no_grad():
        right.append(network(paddle.to_tensor(images)).numpy().argmax(axis=1) == labels)

first, every = right[0], np.concatenate(right)
print(f"of the first batch: {first.sum()} of {len(first)} are {first.mean():.2%}")
print(f"of all:             {every.sum()} of {len(every)} are {every.mean():.2%}")

# %% [markdown]
# How far can 64 images lead astray? The article that this project grew from reports 85.94 %, which is 55 of 64.
# By Wilson's interval, the accuracy of such a network is, with 95 % confidence, between


# %%
def wilson(right, images, z=1.96):
    """The interval in which a share lies with 95 % confidence (Wilson 1927)."""
    share = right / images
    middle = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * np.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    return middle - half, middle + half


for correct, of in ((55, 64), (8594, 10_000)):
    low, high = wilson(correct, of)
    print(f"{correct} of {of}: {correct / of:.2%}, between {low:.1%} and {high:.1%}")

assert round(55 / 64, 4) == 0.8594

# %% [markdown]
# ## With `fit`
#
# `fit` does all of that, and what one soon wants besides: it holds images out to validate, counts every image
# once, saves as it goes on, and can be stopped at any moment (`cifar-hapi resume`). What is trained, on what
# and how is a recipe, of which single values can be changed. Anything that wants to look on is a callback of
# Paddle's. (The recipe `article` is the article's own training: ResNet-18 from ImageNet at 224x224, Adam, ten epochs;
# `cifar-hapi train article` is for a GPU, `article-32` for a CPU.)

# %%
import tempfile
from pathlib import Path

from callbacks import LambdaCallback
from cifar_hapi import fit

folder = Path(tempfile.mkdtemp())


def tell(step, logs):
    if (step + 1) % 20 == 0:
        print(f"step {step + 1}: mean loss {logs['loss']:.3f}")


run = fit(
    "resnet20",
    epochs=2,
    batch_size=64,
    run_dir=folder / "run",
    callbacks=[LambdaCallback(on_train_batch_end=tell)],
    verbose=0,
    **{
        "network.width": 8,
        "data.limit": 2500,
        "optimizer.name": "adam",
        "optimizer.lr": 0.001,
        "schedule.name": "constant",
        "schedule.milestones": [],
        "bn_stats.every_epochs": 1,
    },
)

# %% [markdown]
# The run is a folder. Nothing in it is a pickle:

# %%
for path in sorted((folder / "run").rglob("*")):
    if path.is_file():
        print(path.relative_to(folder), f"{path.stat().st_size:,} bytes")

for record in run.history:
    print({key: round(record[key], 4) for key in ("loss", "acc", "eval_loss", "eval_acc", "lr")})

# %% [markdown]
# ## Evaluate, predict, look inside
#
# Every test image once; the loss is the mean over all, and the same run gives the same number again:

# %%
from cifar_hapi import evaluate, predict

result = evaluate(folder / "run", verbose=0)
print(f"{result['top1']:.2%} of {result['images']:,} images, loss {result['loss']:.4f}")
assert result["top1"] == run.evaluation["top1"]

predictions = predict(folder / "run", data.test.images[:5])
for name, row, label in zip(predictions.names, predictions.probabilities, data.test.labels, strict=False):
    print(f"taken for {name} ({row.max():.0%}), is {data.test.class_names[label]}")

# %% [markdown]
# What the batch norm of this network did, and whether something is wrong with it:

# %%
from cifar_hapi import diagnose

print(diagnose(run, images=200))

# %% [markdown]
# In a terminal the same is
#
# ```sh
# cifar-hapi train resnet20 --epochs 2 --batch-size 64 --set network.width=8 --set data.limit=2500 \
#   --set optimizer.name=adam --set optimizer.lr=0.001 --set schedule.name=constant --set 'schedule.milestones=[]' \
#   --set bn_stats.every_epochs=1
# cifar-hapi evaluate
# cifar-hapi bn --html
# ```
#
# Next: [whether depth helps](5_plain_and_residual.md).
