"""What the system says about how much of the machine this process may take."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from mq9_broker.process import processors

#: A process in a group of its own, in both versions of control groups.
OWN_2 = {"proc/self/cgroup": "0::/system.slice/mq9.service\n"}
OWN_1 = {"proc/self/cgroup": "12:memory:/mq9\n4:cpu,cpuacct:/docker/mq9\n0::/\n"}
#: A container that sees the names of the machine and the files of its own group only.
CONTAINER_2 = {"proc/self/cgroup": "0::/../../kubepods/pod-9\n"}


def system(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        (OWN_2 | {"sys/fs/cgroup/system.slice/mq9.service/cpu.max": "50000 100000\n"}, 0.5),
        (OWN_2 | {"sys/fs/cgroup/system.slice/cpu.max": "25000 100000\n"}, 0.25),
        (
            OWN_2
            | {
                "sys/fs/cgroup/system.slice/mq9.service/cpu.max": "max 100000\n",
                "sys/fs/cgroup/system.slice/cpu.max": "1000 10000\n",
            },
            0.1,
        ),
        (CONTAINER_2 | {"sys/fs/cgroup/cpu.max": "10000 100000\n"}, 0.1),
        (
            OWN_1
            | {
                "sys/fs/cgroup/cpu/docker/mq9/cpu.cfs_quota_us": "30000\n",
                "sys/fs/cgroup/cpu/docker/mq9/cpu.cfs_period_us": "100000\n",
            },
            0.3,
        ),
        (
            OWN_1
            | {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "40000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000\n",
            },
            0.8,
        ),
    ],
)
def test_a_control_group_that_allots_less_than_a_core_counts(
    files: Mapping[str, str], cores: float, tmp_path: Path
) -> None:
    assert processors(system(tmp_path, files)) == cores


def test_a_control_group_may_have_any_name(tmp_path: Path) -> None:
    root = system(tmp_path, {"sys/fs/cgroup/cpu.max": "10000 100000\n", "proc/self/cgroup": ""})
    (root / "proc/self/cgroup").write_bytes(b"0::/caf\xe9.slice/mq9\n")
    assert processors(root) == 0.1


@pytest.mark.parametrize(
    "files",
    [
        {},
        OWN_2,
        OWN_2 | {"sys/fs/cgroup/system.slice/mq9.service/cpu.max": "max 100000\n"},
        OWN_2 | {"sys/fs/cgroup/cpu.max": "100000000 1\n"},
        OWN_2 | {"sys/fs/cgroup/cpu.max": ""},
        OWN_1
        | {
            "sys/fs/cgroup/cpu/docker/mq9/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/docker/mq9/cpu.cfs_period_us": "100000\n",
        },
        # the group of another version, and another controller's
        OWN_1 | {"sys/fs/cgroup/docker/mq9/cpu.max": "1 100000", "sys/fs/cgroup/memory/mq9/cpu.max": "1 100000"},
    ],
)
def test_without_a_limit_it_is_the_cores_that_it_may_run_on(files: Mapping[str, str], tmp_path: Path) -> None:
    found = processors(system(tmp_path, files))
    assert found == processors(tmp_path / "nothing") >= 1
    assert found == int(found)
