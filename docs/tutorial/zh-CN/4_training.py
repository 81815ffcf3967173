# %% [markdown]
# # 4. 训练、观察、评估
#
# ## 手写训练循环
#
# 任何训练都是这几步：取一个批次，算损失，求梯度，优化器走一步。
# 这里用学习率为 0.001 的 Adam，每 10 步打印一次损失；为了在 CPU 上几秒钟就能跑完，
# 只用 2,500 张图像把一个较窄的 ResNet-20 训练一轮。

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
# ## 准确率
#
# 在评估模式下，遍历整个测试集。如果循环因为一个 `break` 或者少了一级缩进，在第一个批次之后就结束了，
# 同样会得到一个数字：但那只是 64 张图像的准确率。

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
# 64 张图像会让人错得多离谱？本项目起源的那篇文章给出的准确率是 85.94 %，也就是 64 张里对了 55 张。
# 按 Wilson 区间，这样一个网络的准确率以 95 % 的置信度落在：


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
# ## 使用 `fit`
#
# `fit` 做的就是上面这些，还包括很快就会用到的其他事情：留出一部分图像作验证，每张图像恰好计算一次，
# 边训练边保存，随时可以中断（用 `cifar-hapi resume` 继续）。训练什么、用什么数据、怎么训练，都写在配方里，
# 其中任何一个值都可以单独修改。想在训练中观察什么，写成 Paddle 的回调即可。（配方 `article` 就是那篇文章的训练：
# ImageNet 预训练的 ResNet-18，224x224，Adam，十轮；`cifar-hapi train article` 适合 GPU，`article-32` 适合 CPU。）

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
# 一次训练就是一个目录，其中没有任何 pickle：

# %%
for path in sorted((folder / "run").rglob("*")):
    if path.is_file():
        print(path.relative_to(folder), f"{path.stat().st_size:,} bytes")

for record in run.history:
    print({key: round(record[key], 4) for key in ("loss", "acc", "eval_loss", "eval_acc", "lr")})

# %% [markdown]
# ## 评估、预测、查看内部
#
# 每张测试图像只测一次；损失是所有图像的平均，对同一次训练再评估一次，得到的数字完全相同：

# %%
from cifar_hapi import evaluate, predict

result = evaluate(folder / "run", verbose=0)
print(f"{result['top1']:.2%} of {result['images']:,} images, loss {result['loss']:.4f}")
assert result["top1"] == run.evaluation["top1"]

predictions = predict(folder / "run", data.test.images[:5])
for name, row, label in zip(predictions.names, predictions.probabilities, data.test.labels, strict=False):
    print(f"taken for {name} ({row.max():.0%}), is {data.test.class_names[label]}")

# %% [markdown]
# 这个网络的批归一化表现如何，有没有问题：

# %%
from cifar_hapi import diagnose

print(diagnose(run, images=200))

# %% [markdown]
# 在终端里，同样的事情写作
#
# ```sh
# cifar-hapi train resnet20 --epochs 2 --batch-size 64 --set network.width=8 --set data.limit=2500 \
#   --set optimizer.name=adam --set optimizer.lr=0.001 --set schedule.name=constant --set 'schedule.milestones=[]' \
#   --set bn_stats.every_epochs=1
# cifar-hapi evaluate
# cifar-hapi bn --html
# ```
#
# 下一篇：[更深是否更好](5_plain_and_residual.md)。
