# %% [markdown]
# # 5. Plain against residual
#
# He et al. 2015 (arXiv 1512.03385, figure 6) trained networks of 20 to 110 layers on CIFAR-10 for 64,000 steps:
# plain ones get *worse* with depth, on the training images too, so that it is no overfitting; residual ones get
# better. This is the experiment in small: narrow networks, few images, few epochs.

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
# The curves: plain networks dashed, the deeper one of each kind darker.

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
# The plain network of 44 layers can represent whatever the one of 20 layers does: its further layers would only
# have to pass their input through. It doesn't find that. In the residual one the shortcuts carry the input
# already, and the layers beside them learn what to add; its loss on the **training** images is the lower for it.
# That residual networks get *better* with depth takes more images and epochs than these: that of 44 layers is about as
# good as that of 20, and worse on held-out images. The plain one falls far behind.

# %%
final = {name: run.history[-1]["loss"] for name, run in runs.items()}
assert final["plain44"] > final["plain20"]
assert final["plain44"] > final["resnet44"]

# %% [markdown]
# One seed and four epochs show a tendency, not the paper's numbers. [results.md](../results.md) has what was
# measured on the whole of CIFAR-10; the networks are `plain20/32/44/56` and `resnet20/32/44/56/110`.
