# %% [markdown]
# # 1. Batch norm by hand
#
# What a batch-norm layer computes, on a batch so small that every number can be checked.
#
# ## A batch of three samples with five features

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
# Each column is a feature. A layer in training mode, as every new layer is, takes mean and variance of each
# feature **over the batch**, and normalises by them:

# %%
mean, variance = x.mean(axis=0), x.var(axis=0)
by_hand = (x - mean) / np.sqrt(variance + 1e-5)

assert np.allclose(y, by_hand, atol=1e-5)
print("mean over the batch    ", y.mean(axis=0))
print("variance over the batch", y.var(axis=0))

# %% [markdown]
# The mean is 0 and the variance 1 **in each feature, over the batch**. Nothing of the kind holds for a sample,
# which is a row:

# %%
print("mean of each sample    ", y.mean(axis=1))
print("variance of each sample", y.var(axis=1))
assert not np.allclose(y.mean(axis=1), 0, atol=0.1)

# %% [markdown]
# The small number 1e-5, epsilon, keeps a feature that is the same in all samples from a division by 0. The last
# feature was much larger than the others; after the layer it isn't any more.
#
# ## What the layer keeps
#
# In evaluation there may be a single sample, and what it is given should not depend on who stands beside it. So
# the layer keeps *running* averages of mean and variance while it trains. In a layer that has seen nothing, the
# running mean is 0 and the running variance is **1** (one often reads 0 and 0):

# %%
untrained = nn.BatchNorm1D(5)
print("running mean    ", untrained._mean.numpy())
print("running variance", untrained._variance.numpy())

# %% [markdown]
# With these, evaluation divides by $\sqrt{1 + 10^{-5}}$, which is almost nothing:

# %%
untrained.eval()
sample = x[:1]
print("in ", sample)
print("out", untrained(paddle.to_tensor(sample)).numpy())
assert np.allclose(untrained(paddle.to_tensor(sample)).numpy(), sample / np.sqrt(1 + 1e-5))

# %% [markdown]
# The layer from above was called once in training mode. That moved its running averages by a tenth of the way,
# since Paddle's momentum of 0.9 is the weight of the **old** value:
#
# $$\text{running} \leftarrow 0.9\,\text{running} + 0.1\,\text{batch}$$

# %%
assert np.allclose(layer._mean.numpy(), 0.9 * 0 + 0.1 * mean)
assert np.allclose(layer._variance.numpy(), 0.9 * 1 + 0.1 * variance)
print("running mean    ", layer._mean.numpy())
print("running variance", layer._variance.numpy())

# %% [markdown]
# So the same sample comes out of the two layers differently. Whoever calls a layer in training mode first, and
# then looks at evaluation mode, does not see an untrained layer:

# %%
layer.eval()
print("after one batch", layer(paddle.to_tensor(sample)).numpy())
print("untrained      ", untrained(paddle.to_tensor(sample)).numpy())
assert not np.allclose(layer(paddle.to_tensor(sample)).numpy(), sample, atol=0.1)

# %% [markdown]
# PyTorch writes the same rule with a momentum of 0.1, the weight of the **new** value, and its running variance
# divides by n - 1 where Paddle's divides by n ([all formulas](../batch-norm-formulas.md)).
#
# ## One sample in training mode
#
# The mean of one value is the value, and its variance is 0. By the formula every sample would come out as 0
# times the scale plus the shift, that is as the learnt shift. Let it be 7, so that one can tell:

# %%
single = nn.BatchNorm1D(5)
single.bias.set_value(np.full(5, 7, "float32"))
out = single(paddle.to_tensor(sample)).numpy()
print("in ", sample)
print("out", out)
assert np.array_equal(out, sample)

# %% [markdown]
# The sample comes out as it went in, not as 7: Paddle skips the computation where a channel has a single value.
# It looks as if the layer had learnt to do nothing, and is an exception in the code. PyTorch raises an error
# there. In a training whose last batch happens to have one sample, Paddle's layer silently does something else;
# `cifar-hapi bn` warns of that.
#
# ## Images
#
# For images, [N, C, H, W], a feature is a channel: statistics go over all samples and all pixels, N, H and W.
# Three images of three channels, one pixel high and two wide:

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
# Six values went into each mean here; in the first layer of a network for CIFAR-10, with a batch of 128, it is
# 128 x 32 x 32 = 131,072. Therefore small batches do less harm in early layers than in late ones, whose maps
# are small.
#
# ## And then
#
# `cifar_hapi.batch_norm.formulas` has forward, backward and the running averages in plain NumPy, tested against
# Paddle's layers. [batch-norm.md](../batch-norm.md) records and draws these numbers in a training, and finds
# what is wrong with them. Next: [the pictures](2_pictures.md).
