# %% [markdown]
# # 1. 手算批归一化
#
# 批归一化层究竟算了什么？用一个小到每个数都能核对的批次来看。
#
# ## 一个批次：三个样本，每个五个特征

# %%
import numpy as np
import paddle
from paddle import nn

np.set_printoptions(precision=4, suppress=True)

x = np.array(
    [
        [0.2, 1.5, -0.7, 3.0, 10.0],
        [1.1, 0.5, 0.3, -1.0, 30.0],
        [-0.4, 2.5, 0.9, 1.0, 50.0],
    ],
    dtype="float32",
)

layer = nn.BatchNorm1D(5)
y = layer(paddle.to_tensor(x)).numpy()
y

# %% [markdown]
# 每一列是一个特征。新建的层都处于训练模式，这时它对每个特征**在批次上**求均值和方差，再用它们归一化：

# %%
mean, variance = x.mean(axis=0), x.var(axis=0)
by_hand = (x - mean) / np.sqrt(variance + 1e-5)

assert np.allclose(y, by_hand, atol=1e-5)
print("mean over the batch    ", y.mean(axis=0))
print("variance over the batch", y.var(axis=0))

# %% [markdown]
# **每个特征在批次上**的均值为 0、方差为 1。对单个样本（也就是一行）来说，则没有这样的性质：

# %%
print("mean of each sample    ", y.mean(axis=1))
print("variance of each sample", y.var(axis=1))
assert not np.allclose(y.mean(axis=1), 0, atol=0.1)

# %% [markdown]
# 那个很小的数 1e-5（epsilon）防止某个特征在所有样本中都相同时除以 0。
# 最后一个特征原本比其他特征大得多，经过这一层之后就不再如此了。
#
# ## 层会记住什么
#
# 评估时可能只有一个样本，而且一个样本的结果不应取决于同批次里还有谁。
# 因此训练时这一层会维护均值和方差的**滑动平均**。
# 还没见过任何数据时，滑动均值是 0，滑动方差是 **1**（常有人误写成两个都是 0）：

# %%
untrained = nn.BatchNorm1D(5)
print("running mean    ", untrained._mean.numpy())
print("running variance", untrained._variance.numpy())

# %% [markdown]
# 用这两个值，评估就是除以 $\sqrt{1 + 10^{-5}}$，几乎什么也没变：

# %%
untrained.eval()
sample = x[:1]
print("in ", sample)
print("out", untrained(paddle.to_tensor(sample)).numpy())
assert np.allclose(untrained(paddle.to_tensor(sample)).numpy(), sample / np.sqrt(1 + 1e-5))

# %% [markdown]
# 前面那一层在训练模式下被调用过一次，它的滑动平均因此向批次的统计量移动了十分之一，
# 因为 Paddle 的动量 0.9 是**旧值**的权重：
#
# $$\text{running} \leftarrow 0.9\,\text{running} + 0.1\,\text{batch}$$

# %%
assert np.allclose(layer._mean.numpy(), 0.9 * 0 + 0.1 * mean)
assert np.allclose(layer._variance.numpy(), 0.9 * 1 + 0.1 * variance)
print("running mean    ", layer._mean.numpy())
print("running variance", layer._variance.numpy())

# %% [markdown]
# 所以同一个样本通过这两层，结果并不相同。
# 如果先在训练模式下调用过一次，再切换到评估模式去看，看到的就不是一个未经训练的层了：

# %%
layer.eval()
print("after one batch", layer(paddle.to_tensor(sample)).numpy())
print("untrained      ", untrained(paddle.to_tensor(sample)).numpy())
assert not np.allclose(layer(paddle.to_tensor(sample)).numpy(), sample, atol=0.1)

# %% [markdown]
# PyTorch 的规则相同，但动量写作 0.1，是**新值**的权重；它的滑动方差除以 n - 1，而 Paddle 除以 n
# （[全部公式](../../batch-norm-formulas.md)，英文）。
#
# ## 训练模式下只有一个样本
#
# 只有一个值时，均值就是它自己，方差为 0。按公式，每个样本的输出都应当是 0 乘以缩放系数再加上平移量，
# 也就是学到的平移量。为了看得出来，把平移量设为 7：

# %%
single = nn.BatchNorm1D(5)
single.bias.set_value(np.full(5, 7, "float32"))
out = single(paddle.to_tensor(sample)).numpy()
print("in ", sample)
print("out", out)
assert np.array_equal(out, sample)

# %% [markdown]
# 样本原样输出，而不是 7：当每个通道只有一个值时，Paddle 会跳过计算。
# 看上去好像这一层学会了恒等映射，其实只是代码里的一个特例；PyTorch 在这种情况下会报错。
# 如果训练的最后一个批次恰好只有一个样本，Paddle 的层就会悄悄换一种算法；`cifar-hapi bn` 会对此发出警告。
#
# ## 图像
#
# 对形如 [N, C, H, W] 的图像，一个特征就是一个通道：统计量对所有样本的所有像素计算，即对 N、H、W 求。
# 下面是三张三通道图像，高 1 个像素，宽 2 个像素：

# %%
images = np.arange(18, dtype="float32").reshape(3, 3, 1, 2)
z = nn.BatchNorm2D(3)(paddle.to_tensor(images)).numpy()

mean = images.mean(axis=(0, 2, 3), keepdims=True)
variance = images.var(axis=(0, 2, 3), keepdims=True)
assert np.allclose(z, (images - mean) / np.sqrt(variance + 1e-5), atol=1e-5)
print("statistics of each channel:", mean.ravel(), variance.ravel())
print("mean of the output in each channel    ", z.mean(axis=(0, 2, 3)))
print("variance of the output in each channel", z.var(axis=(0, 2, 3)))

# %% [markdown]
# 这里每个均值由六个数求得。而在 CIFAR-10 网络的第一层，批大小为 128 时，参与计算的有
# 128 x 32 x 32 = 131,072 个数。所以小批次对前面的层影响较小，对特征图已经很小的后面几层影响较大。
#
# ## 接下来
#
# `cifar_hapi.batch_norm.formulas` 用纯 NumPy 实现了前向、反向和滑动平均，并与 Paddle 的层对照测试过。
# [batch-norm.md](../../batch-norm.md)（英文）介绍如何在训练中记录并画出这些数值，以及找出其中的问题。
# 下一篇：[图像](2_pictures.md)。
