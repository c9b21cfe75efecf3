"""NUMA machines as a service: an emulated Linux NUMA memory system on Ray and gRPC."""

__version__ = "0.2.0"
