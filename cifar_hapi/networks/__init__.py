"""Networks for CIFAR-sized images, built by name."""

from cifar_hapi.networks.registry import build_network, check_network, network_names

__all__ = ["build_network", "check_network", "network_names"]
