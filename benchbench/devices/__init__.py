"""Devices: processors, memory, boards. Probing only; nothing here computes.

Every probe takes the root of the file system, so that `/proc`, `/sys` and the device tree of a
board can be laid out in a folder and read on any machine. Only `cuda` looks through torch, which it
imports when called.
"""

from benchbench.devices.cpu import available_memory_bytes, total_memory_bytes, usable_cores
from benchbench.devices.jetson import TegraBoard

__all__ = ["TegraBoard", "available_memory_bytes", "total_memory_bytes", "usable_cores"]
