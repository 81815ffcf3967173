"""What the machine grants this process: its CPU, the cores and the memory that it may use."""

from __future__ import annotations

import math
import os
import platform
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Cpu:
    """name: as its maker calls it. vendor: "GenuineIntel", "AuthenticAMD" ..., "" if unknown. flags: "avx2" ..."""

    name: str
    vendor: str
    flags: frozenset[str]


@cache
def cpu() -> Cpu:
    """The first CPU in /proc/cpuinfo; where there is no such file, what Python knows."""
    lines = _read(_CPU_INFO).split("\n\n")[0].splitlines()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = fields.get("model name") or platform.processor() or platform.machine()
    return Cpu(name, fields.get("vendor_id", ""), frozenset(fields.get("flags", "").split()))


def usable_cores() -> int:
    """How many CPU cores this process may keep busy: its affinity, and its control group's quota, rounded up.

    More threads than the quota (`docker run --cpus`) only wait for each other: the kernel halts them all in turn.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return math.ceil(min(allowed, cpu_quota()))


@cache
def cpu_quota() -> float:
    """How many CPUs' time the control groups (v2 or v1) that this process is in grant; infinite without a limit."""
    limits = [math.inf]
    for text in _group_files("cpu.max"):  # "150000 100000": microseconds in each period, or "max 100000"
        quota, _, period = text.partition(" ")
        if quota != "max":
            limits.append(int(quota) / int(period))
    v1 = (_group_files(name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    for quota, period in zip(*v1, strict=True):
        if int(quota) > 0:  # -1: no limit
            limits.append(int(quota) / int(period))
    return min(limits)


def memory() -> int | None:
    """Bytes of memory that this process may use: the machine's, or its control group's limit; None if unknown."""
    limits = [int(text) for text in _group_files("memory.max") if text != "max"]
    limits += [int(text) for text in _group_files("memory.limit_in_bytes")]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(limits, default=None)


def peak_memory() -> int | None:
    """The most bytes of main memory that this process has ever taken; None where the system doesn't tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else 1024 * int(peak)  # elsewhere it counts in KiB


def _group_files(name: str) -> list[str]:
    """What the files of that name say in the control groups of this process, from its own up to the root."""
    found = []
    for line in _read(_OWN_GROUPS).splitlines():  # v2: "0::/path", v1: "4:cpu,cpuacct:/path"
        _, controllers, path = line.split(":", 2)
        own = _GROUPS / controllers / path.lstrip("/")
        found += [_read(folder / name) for folder in (own, *own.parents) if folder.is_relative_to(_GROUPS)]
    return [text for text in found if text]


def _read(file: Path) -> str:
    """The text of a file of the kernel's; "" where it has none, as outside Linux."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
