import os
import subprocess
import sys

import numba
import pytest

from ntk_numba import machine


def test_the_least_limit_counts(monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("300000\n")
    (tmp_path / "memory.stat").write_text("anon 200000\ninactive_file 50000\n")
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    monkeypatch.setattr(machine, "_cgroup_folders", lambda controller: [tmp_path])
    assert machine.available_memory() == 750_000
    assert machine.available_threads() == 1
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.available_memory() > 1 << 28
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "2")
    assert machine.available_memory() == 2 << 20
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")  # --mem=0 is all there is
    assert machine.available_memory() > 1 << 28
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "3")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "2")
    assert machine.available_memory() == 6 << 20
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert machine.available_threads() == 1


def test_version_one_control_groups(monkeypatch, tmp_path):
    (tmp_path / "memory.limit_in_bytes").write_text("5000000\n")
    (tmp_path / "memory.usage_in_bytes").write_text("1000000\n")
    (tmp_path / "memory.stat").write_text("total_inactive_file 0\n")
    (tmp_path / "cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    monkeypatch.setattr(machine, "_cgroup_folders", lambda controller: [tmp_path])
    assert machine.available_memory() == 4_000_000
    assert machine.available_threads() == 1


def test_address_space_limit_counts():
    code = (
        "import resource; from ntk_numba.machine import available_memory;"
        "resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30)); print(available_memory())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert 0 < int(answer.stdout) < 16 << 30


def test_threads():
    cores = min(len(os.sched_getaffinity(0)), numba.config.NUMBA_NUM_THREADS)
    assert 1 <= machine.available_threads() <= cores
    assert machine.threads_to_use(1) == 1
    assert machine.threads_to_use(10_000) == machine.threads_to_use(None)
    for few in (0, -1):
        with pytest.raises(ValueError, match="threads must be at least 1"):
            machine.threads_to_use(few)
    for bad in (1.5, True, "2"):
        with pytest.raises(TypeError, match="threads must be a whole number"):
            machine.threads_to_use(bad)
