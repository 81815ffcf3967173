"""Muon: momentum whose update of each convolution is made orthogonal."""

from __future__ import annotations

from typing import Any

import paddle

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_EPSILON = 1e-7  # added to norms: a matrix of zeros stays one


class Muon(paddle.optimizer.Optimizer):
    """Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks", with SGD for what is no filter.

    For weights of a convolution, [out, in, h, w] seen as a matrix [out, in*h*w]::

        velocity = momentum * velocity + gradient
        weight   = weight * sqrt(out) / norm(weight)
        weight   = weight - rate * orthogonal(gradient + momentum * velocity)

    The weights keep their norm, so that they need no decay: batch norm, which must follow, makes their scale
    meaningless. All other parameters take a step of SGD with Nesterov momentum `sgd_momentum`.

    learning_rate: a number or a scheduler; a parameter's `optimize_attr["learning_rate"]` is a factor of it, and its
    `regularizer` adds a decay to the gradient, as in all of Paddle's optimisers. iterations: of Newton and Schulz.
    parameters: a list, or Paddle's groups of them, which may have a `momentum` and `sgd_momentum` of their own.
    The state is one slot a parameter, `velocity_0`.
    """

    _SLOT = "velocity"

    def __init__(
        self,
        learning_rate: Any = 0.24,
        momentum: float = 0.6,
        sgd_momentum: float = 0.85,
        iterations: int = 3,
        parameters: Any = None,
        grad_clip: Any = None,
    ) -> None:
        super().__init__(learning_rate=learning_rate, parameters=parameters, grad_clip=grad_clip)
        self.type = "muon"
        self._momentum, self._sgd_momentum, self._iterations = momentum, sgd_momentum, iterations

    # Private to Paddle, as what they call: where its optimisers make their slots and update a parameter.

    def _create_accumulators(self, block: Any, parameters: Any) -> None:
        for parameter in parameters["params"] if isinstance(parameters, dict) else parameters:
            if parameter.name not in self._accumulators[self._SLOT]:
                self._add_accumulator(self._SLOT, parameter)

    def _append_optimize_op(self, block: Any, param_and_grad: Any) -> None:
        group = param_and_grad if isinstance(param_and_grad, dict) else {"params": param_and_grad}
        parameter, gradient = group["params"]
        velocity = self._get_accumulator(self._SLOT, parameter)
        rate = self.get_lr() * parameter.optimize_attr.get("learning_rate", 1.0)
        is_filter = parameter.ndim == 4
        momentum = group.get("momentum", self._momentum) if is_filter else group.get("sgd_momentum", self._sgd_momentum)
        with paddle.no_grad():
            velocity.scale_(momentum)
            velocity.add_(gradient)
            update = gradient + momentum * velocity
            if is_filter:
                update = orthogonal(update.flatten(1), self._iterations).reshape(update.shape)
                parameter.multiply_(parameter.shape[0] ** 0.5 / (parameter.norm() + _EPSILON))
            parameter.subtract_(update * rate)


def orthogonal(matrix: paddle.Tensor, iterations: int = 3) -> paddle.Tensor:
    """About the orthogonal matrix nearest to `matrix`, float32 [M, N]: its singular values come near 1 (0.7 to 1.2).

    A polynomial of Newton and Schulz, of degree five, whose slope at 0 is as steep as it can be; the more iterations,
    the smaller the singular values that reach 1.
    """
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.t() if tall else matrix) / (matrix.norm() + _EPSILON)
    for _ in range(iterations):
        square = paddle.matmul(x, x, transpose_y=True)
        x = a * x + paddle.matmul(b * square + c * paddle.matmul(square, square), x)
    return x.t() if tall else x
