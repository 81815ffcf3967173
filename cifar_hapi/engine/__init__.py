"""How layers are executed fast on this device: the choice, and the wheel's oneDNN called from Python."""

from cifar_hapi.engine.choice import Availability, EngineChoice, accelerate, onednn_availability, use_engine

__all__ = ["Availability", "EngineChoice", "accelerate", "onednn_availability", "use_engine"]
