"""Limits of containers, from files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from obsray.core.system.cgroup import Cgroup, cpus, memory_bytes

MIB = 1 << 20


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def group(tmp_path: Path, membership: str, files: dict[str, str]) -> Cgroup:
    (tmp_path / "membership").write_text(membership)
    return Cgroup(tree(tmp_path / "root", files), tmp_path / "membership")


def test_version_2_takes_the_smallest_limit_on_the_way_up(tmp_path):
    found = group(
        tmp_path,
        "0::/pod/box\n",
        {
            "cgroup.controllers": "cpu memory",
            "pod/memory.max": f"{100 * MIB}\n",
            "pod/cpu.max": "150000 100000\n",
            "pod/box/memory.max": "max\n",
            "pod/box/cpu.max": "max 100000\n",
            "pod/box/memory.current": "4096\n",
            "pod/box/memory.events": "low 0\noom 3\noom_kill 2\n",
        },
    )
    assert found.memory_limit_bytes() == 100 * MIB
    assert found.memory_used_bytes() == 4096
    assert found.cpu_limit() == 1.5
    assert found.oom_kills() == 2


def test_version_1_is_read_too(tmp_path):
    found = group(
        tmp_path,
        "5:memory:/box\n4:cpu,cpuacct:/box\n",
        {
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "memory/box/memory.limit_in_bytes": f"{64 * MIB}\n",
            "memory/box/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n",
            "cpu/box/cpu.cfs_quota_us": "50000\n",
            "cpu/box/cpu.cfs_period_us": "100000\n",
        },
    )
    assert found.memory_limit_bytes() == 64 * MIB
    assert found.cpu_limit() == 0.5
    assert found.oom_kills() == 7
    assert cpus(found) == 1
    assert memory_bytes(found) == 64 * MIB


def test_inside_a_container_the_own_group_is_the_root_of_the_mount(tmp_path):
    found = group(
        tmp_path,
        "0::/docker/0123\n",
        {"cgroup.controllers": "", "memory.max": "1048576\n", "cpu.max": "200000 100000\n"},
    )
    assert (found.memory_limit_bytes(), found.cpu_limit()) == (MIB, 2.0)


@pytest.mark.parametrize("files", [{}, {"cgroup.controllers": ""}, {"cgroup.controllers": "", "cpu.max": "garbage"}])
def test_no_limit_and_no_word_are_both_none(tmp_path, files):
    found = group(tmp_path, "0::/\n", {"empty": "", **files})
    assert (found.memory_limit_bytes(), found.cpu_limit(), found.oom_kills()) == (None, None, None)
    assert cpus(found) >= 1 and memory_bytes(found) > 0
