"""Where rules begin to speak, each number with its reason.

"Measured" is the most extreme that was seen in 36 networks of the registry: the smallest of each kind, in widths of 4
and 8, from three seeds, after 48 steps of 20 generated images at a rate that ends at 0 ("settled"), and after 75 steps
of 32 at a constant rate of 0.1 ("in full flight"), looked at on 200 other images. Healthy networks that have settled
must lie below whatever is a warning.
"""

from __future__ import annotations

import math

# Running statistics against true ones, over a layer's channels. A mean that is off by half a standard deviation moves
# 19 % of normally distributed values over the corner of a ReLU; twice the variance makes outputs 1.4 times as large.
# Measured: 0.10 and 0.25 where settled, 0.34 and 0.38 in full flight.
MEAN_NOTED, MEAN_WARNED, MEAN_WRONG = 0.25, 0.5, 2.0
LOG_RATIO_NOTED, LOG_RATIO_WARNED, LOG_RATIO_WRONG = math.log(1.5), math.log(2), math.log(10)

# The same of one channel: twice as much. Measured: 0.40 and 0.98 where settled, 0.69 and 1.42 in full flight.
CHANNEL_MEAN, CHANNEL_LOG_RATIO = 2 * MEAN_WARNED, 2 * LOG_RATIO_WARNED

# Images, and values of a channel in all of them together (N * H * W, of vectors N), below which rules about statistics
# of a channel do not speak. The noise of few images is taken from their own spread, which one image does not show and
# few show badly. Measured on three small sound networks, looked at 40 times: with vectors, warnings in 6 of 80 with 8
# images, in 1 of 80 with 12 and with 14, none with 16; with maps of 5x5, notes in 8 of 12 with 1 image, none with 3.
IMAGES_NEEDED, VALUES_NEEDED = 3, 16

# How much more often batch statistics are right than running ones. Noise is excluded by three standard errors; five
# points of a hundred are chosen, as what is worth the minute that recalibration takes. Measured: 0.045 where settled,
# 0.195 in full flight.
GAP_WARNED, GAP_WRONG = 0.05, 0.2
STANDARD_ERRORS = 3.0

# The weight of the 0 and 1 that running statistics begin with. At 1 % a channel whose true variance is 0.01 has a
# running variance that is twice as large. A momentum of 0.9 is there after 44 steps.
START_LEFT = 0.01

# A scale beside its layer's largest: at a thousandth the channel's output is its shift to three digits. A scale that
# changes its sign comes by, so that single channels are noted only.
DEAD_SCALE = 1e-3

# The share of a layer's channels that may be dead. Measured: one of 4 channels where settled, two in full flight.
DEAD_SHARE = 0.5

# A variance beside the square of the mean: float32 has 7 digits, of which sums over a batch lose two.
CONSTANT = 1e-10

# Epsilon as a multiple of a variance: at 0.1 outputs have 0.95 of the standard deviation that they should, at 1 they
# have 0.71. Measured: 0.0003.
EPSILON_NOTED, EPSILON_WARNED = 0.1, 1.0

# A layer's mean variance as a multiple of that of the median layer. Batch norm before a layer keeps it near 1, however
# deep. Measured: 208; but 500 in plain44 and 1,300,000 in plain56, which does not learn.
DEPTH_RATIO = 1e4

# The largest number of float16.
FLOAT16_LARGEST = 65504.0

# A batch of B images has a mean that is off by at most 1 / sqrt(B) standard deviations: a quarter at 16. ResNet-50 errs
# in 23.6, 23.7, 24.8, 27.3 and 34.7 % with 32, 16, 8, 4 and 2 images (Wu & He 2018, table 2).
BATCH_WARNED = 16
