"""What the kernel says of CPU, cores and memory, and what is made of it elsewhere."""

from __future__ import annotations

import math
import os
import sys

import numpy as np
import pytest

from cifar_hapi import hardware

AMD = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD Ryzen 7 5800X
flags\t\t: fpu avx avx2

processor\t: 1
vendor_id\t: AuthenticAMD
model name\t: another
"""


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine of 8 cores, without control groups and without /proc/cpuinfo; its files can be written to."""
    monkeypatch.setattr(hardware, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(hardware, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(hardware, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    hardware.cpu.cache_clear()
    hardware.cpu_quota.cache_clear()
    yield tmp_path
    hardware.cpu.cache_clear()
    hardware.cpu_quota.cache_clear()


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_the_first_cpu_is_described(machine):
    write(machine, {"cpuinfo": AMD})
    assert hardware.cpu() == hardware.Cpu("AMD Ryzen 7 5800X", "AuthenticAMD", frozenset({"fpu", "avx", "avx2"}))


@pytest.mark.parametrize("text", [None, "", "processor\t: 0\nCPU implementer\t: 0x41\n"], ids=["none", "empty", "ARM"])
def test_an_unknown_cpu_has_a_name_all_the_same(machine, monkeypatch, text):
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    write(machine, {} if text is None else {"cpuinfo": text})
    assert hardware.cpu() == hardware.Cpu("aarch64", "", frozenset())


def test_without_affinity_all_cores_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert hardware.usable_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert hardware.usable_cores() == 1


V2 = {"own": "0::/pod/task\n"}
V1 = {"own": "3:cpu,cpuacct:/docker/x\n2:cpuset:/docker/x\n1:name=systemd:/docker/x\n0::/\n"}


@pytest.mark.parametrize(
    ("files", "quota", "cores"),
    [
        ({}, math.inf, 8),
        (V2, math.inf, 8),
        (V2 | {"groups/pod/task/cpu.max": "max 100000\n"}, math.inf, 8),
        (V2 | {"groups/pod/task/cpu.max": "200000 100000\n"}, 2, 2),
        (V2 | {"groups/pod/task/cpu.max": "150000 100000\n"}, 1.5, 2),
        (V2 | {"groups/pod/task/cpu.max": "5000 100000\n"}, 0.05, 1),
        (V2 | {"groups/pod/task/cpu.max": "9900000 100000\n"}, 99, 8),
        (V2 | {"groups/pod/task/cpu.max": "max 100000\n", "groups/pod/cpu.max": "300000 100000\n"}, 3, 3),
        (V2 | {"groups/cpu.max": "400000 100000\n"}, 4, 4),  # in a container, whose root is its own group
        (
            V1
            | {
                "groups/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "250000\n",
                "groups/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n",
            },
            2.5,
            3,
        ),
        (
            V1 | {"groups/cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "groups/cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            math.inf,
            8,
        ),
    ],
)
def test_a_quota_of_the_control_group_limits_the_cores(machine, files, quota, cores):
    write(machine, files)
    assert (hardware.cpu_quota(), hardware.usable_cores()) == (quota, cores)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8 << 30),
        (V2 | {"groups/pod/memory.max": "max\n"}, 8 << 30),
        (V2 | {"groups/pod/memory.max": f"{1 << 30}\n"}, 1 << 30),
        ({"own": "4:memory:/a\n", "groups/memory/a/memory.limit_in_bytes": f"{2 << 30}\n"}, 2 << 30),
        ({"own": "4:memory:/a\n", "groups/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 8 << 30),
    ],
)
def test_memory_is_the_machines_or_the_control_groups(machine, monkeypatch, files, expected):
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": (8 << 30) // 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__, raising=False)
    monkeypatch.setattr(os, "sysconf_names", sizes, raising=False)
    write(machine, files)
    assert hardware.memory() == expected


def test_memory_is_unknown_where_the_system_does_not_tell(monkeypatch):
    monkeypatch.delattr(os, "sysconf")
    assert hardware.memory() is None


def test_the_most_memory_ever_taken_is_in_bytes():
    before = hardware.peak_memory()
    taken = np.ones(25_000_000)  # 200 MB
    after = hardware.peak_memory()
    assert before > 10_000_000 and after >= before and after > taken.nbytes


def test_the_most_memory_ever_taken_is_unknown_where_the_system_does_not_tell(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    assert hardware.peak_memory() is None
