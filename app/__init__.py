"""The proxy, in rooms by subject; docs/architecture.md is the map, `make arch` checks who may know whom."""

__version__ = "0.2.0"
