# %% [markdown]
# # 5. 普通网络与残差网络
#
# He et al. 2015（arXiv 1512.03385，图 6）在 CIFAR-10 上把 20 到 110 层的网络训练了 64,000 步：
# 普通网络越深**越差**，在训练图像上也是如此，所以并不是过拟合；残差网络则越深越好。
# 这里是这个实验的缩小版：网络较窄，图像较少，轮数也少。

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from cifar_hapi import fit

folder, epochs = Path(tempfile.mkdtemp()), 4

settings = {
    "network.width": 4,
    "data.limit": 2000,
    "batch_size": 50,
    "optimizer.lr": 0.05,
    "schedule.name": "one_cycle",
    "schedule.milestones": [],
    "augment.flip": "none",
    "augment.crop_padding": 0,
}
runs = {}
for name in ("plain20", "plain44", "resnet20", "resnet44"):
    changes = {"network.name": name, **settings}
    runs[name] = fit("resnet20", epochs=epochs, run_dir=folder / name, verbose=0, **changes)
    last = runs[name].history[-1]
    print(f"{name:9} training loss {last['loss']:.3f}, accuracy {last['acc']:.1%}, held out {last['eval_acc']:.1%}")

# %% [markdown]
# 曲线：虚线是普通网络；同一类中颜色较深的是更深的网络。

# %%
figure, axis = plt.subplots(figsize=(6, 3.5))
for name, run in runs.items():
    dashes, colour = ("--", "#E69F00") if name.startswith("plain") else ("-", "#2B83C6")
    losses = [record["loss"] for record in run.history]
    axis.plot(range(1, epochs + 1), losses, dashes, color=colour, alpha=1.0 if name.endswith("44") else 0.5, label=name)
axis.set_xlabel("epoch")
axis.set_ylabel("loss on the training images")
axis.set_xticks(range(1, epochs + 1))
axis.legend()
figure.tight_layout()
plt.show()

# %% [markdown]
# 44 层的普通网络能够表示 20 层网络所能表示的一切：多出来的层只要让输入原样通过就行。但训练找不到这样的解。
# 残差网络的捷径本来就把输入传下去，旁边的层只需学习要加上什么，因此它在**训练**图像上的损失更低。
# 而残差网络越深越*好*，需要比这里更多的图像和轮数：44 层的残差网络在这里与 20 层的相差不多，在留出的图像上还差一些，
# 普通网络则远远落后。

# %%
final = {name: run.history[-1]["loss"] for name, run in runs.items()}
assert final["plain44"] > final["plain20"]
assert final["plain44"] > final["resnet44"]

# %% [markdown]
# 一个随机种子、四轮训练只能看出趋势，得不到论文中的数字。
# 在完整的 CIFAR-10 上测得的结果见 [results.zh-CN.md](../../results.zh-CN.md)；
# 相应的网络是 `plain20/32/44/56` 和 `resnet20/32/44/56/110`。
