"""Where rules begin to speak, each number with its reason.

"Measured" is what was seen in the networks of the registry, the smallest of each kind in a width of 4, after 48 steps
of 20 generated images at a rate that ends at 0 ("settled"), and after 75 steps at a constant rate of 0.1 ("in full
flight"). What healthy networks show must lie below whatever is a warning.
"""

from __future__ import annotations

import math

# Running statistics against true ones, over a layer's channels. A mean that is off by half a standard deviation moves
# 19 % of normally distributed values over the corner of a ReLU; twice the variance makes outputs 1.4 times as large.
# Measured: 0.06 and 0.23 at most where settled, 0.24 and 0.34 in full flight.
MEAN_NOTED, MEAN_WARNED, MEAN_WRONG = 0.25, 0.5, 2.0
LOG_RATIO_NOTED, LOG_RATIO_WARNED, LOG_RATIO_WRONG = math.log(1.5), math.log(2), math.log(10)

# The same of one channel: twice as much. Measured: 0.61 and 0.74 at most.
CHANNEL_MEAN, CHANNEL_LOG_RATIO = 2 * MEAN_WARNED, 2 * LOG_RATIO_WARNED

# How much more often batch statistics are right than running ones. Noise is excluded by three standard errors; five
# points of a hundred are more than the noise of a choice between trainings. Measured: 2 points at most where settled.
GAP_WARNED, GAP_WRONG = 0.05, 0.2
STANDARD_ERRORS = 3.0

# The weight of the 0 and 1 that running statistics begin with. At 1 % a channel whose true variance is 0.01 has a
# running variance that is twice as large. A momentum of 0.9 is there after 44 steps.
START_LEFT = 0.01

# A scale beside its layer's largest: at a thousandth the channel's output is its shift to three digits.
# Measured: 0.02 at least.
DEAD_SCALE = 1e-3

# The share of a layer's channels that may be dead. Measured: a quarter at most, one of 4 channels.
DEAD_SHARE = 1 / 3

# A variance beside the square of the mean: float32 has 7 digits, of which sums over a batch lose two.
CONSTANT = 1e-10

# Epsilon as a multiple of a variance: at 0.1 outputs have 0.95 of the standard deviation that they should, at 1 they
# have 0.71. Measured: 0.0003 at most.
EPSILON_NOTED, EPSILON_WARNED = 0.1, 1.0

# A layer's mean variance as a multiple of that of the median layer. Batch norm before a layer keeps it near 1, however
# deep. Measured: 54 at most; 500 in plain44 and 1,300,000 in plain56, which does not learn.
DEPTH_RATIO = 1e4

# The largest number of float16.
FLOAT16_LARGEST = 65504.0

# A batch of B images has a mean that is off by at most 1 / sqrt(B) standard deviations: a quarter at 16. ResNet-50 errs
# in 23.6, 23.7, 24.8, 27.3 and 34.7 % with 32, 16, 8, 4 and 2 images (Wu & He 2018, table 2).
BATCH_WARNED = 16
