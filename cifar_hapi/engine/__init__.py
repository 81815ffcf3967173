"""How a network's layers are executed: by Paddle's own kernels, or by the oneDNN library that its wheel carries."""

from cifar_hapi.engine.choice import use_engine

__all__ = ["use_engine"]
