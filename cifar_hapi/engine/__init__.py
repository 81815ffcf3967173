"""How layers are executed fast on this device: the choice, and the wheel's oneDNN called from Python."""

from cifar_hapi.engine.choice import Availability, EngineChoice, accelerate, onednn_availability, use_engine
from cifar_hapi.engine.execution import restore

__all__ = ["Availability", "EngineChoice", "accelerate", "onednn_availability", "restore", "use_engine"]
