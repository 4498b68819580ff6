import os
import resource
import subprocess
import sys

import numba
import pytest

from ntk_numba import machine

VARIABLES = (*machine.OF_A_PROCESS, *machine.OF_A_NODE, "OMP_NUM_THREADS")


@pytest.fixture
def many_cores(monkeypatch):
    """Simulate 64 cores, and no limit of any scheduler."""
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 64)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    monkeypatch.setattr(machine, "_cgroup_folders", lambda controller: [])
    for name in (
        *VARIABLES, "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_STEP_TASKS_PER_NODE",
        "SLURM_NODEID",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    assert machine.available_threads() == 64


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
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")  # --mem=0 grants all memory of the node
    assert machine.available_memory() > 1 << 28
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "3")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "2")
    assert machine.available_memory() == 6 << 20


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
        "resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30)); print(available_memory());"
        "print(resource.getrlimit(resource.RLIMIT_AS)[0])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    available, limit = map(int, answer.stdout.split())
    if limit == resource.RLIM_INFINITY:
        pytest.skip("limits of the address space have no effect here, as under QEMU")
    assert 0 < available < limit == 16 << 30


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


@pytest.mark.parametrize("name", VARIABLES)
def test_the_cores_that_a_scheduler_grants_are_counted(name, many_cores, monkeypatch):
    monkeypatch.setenv(name, "4")
    assert machine.available_threads() == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")  # a number for each level of nesting
    assert machine.available_threads() == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2))
    assert machine.available_threads() == 2
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 1)
    assert machine.available_threads() == 1


@pytest.mark.parametrize("text", ["", "0", "many", "-3", "1.5"])
def test_bad_numbers_of_cores_are_ignored(text, many_cores, monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, text)
    assert machine.available_threads() == 64


# The variables that a real Slurm sets on one node, for a batch script and within srun
@pytest.mark.parametrize(
    ("variables", "threads"),
    [
        ("CPUS_ON_NODE=8 TASKS_PER_NODE=8 NTASKS=8", 8),  # sbatch -n8: the script is alone
        ("CPUS_ON_NODE=8 TASKS_PER_NODE=8", 8),  # --exclusive: no tasks are meant
        ("CPUS_ON_NODE=8 TASKS_PER_NODE=8 NTASKS=8 STEP_TASKS_PER_NODE=8 NODEID=0", 1),
        ("CPUS_ON_NODE=8 CPUS_PER_TASK=2 STEP_TASKS_PER_NODE=4 NODEID=0", 2),
        ("CPUS_ON_NODE=8 CPUS_PER_TASK=6 STEP_TASKS_PER_NODE=1 NODEID=0", 6),
        ("CPUS_ON_NODE=8 STEP_TASKS_PER_NODE=2(x3),1 NODEID=2", 4),
        ("CPUS_ON_NODE=8 STEP_TASKS_PER_NODE=2(x3),1 NODEID=3", 8),
        ("CPUS_ON_NODE=2 STEP_TASKS_PER_NODE=4 NODEID=0", 1),  # --overcommit
    ],
)
def test_tasks_of_slurm_share_a_node(variables, threads, many_cores, monkeypatch):
    for variable in variables.split():
        name, text = variable.split("=")
        monkeypatch.setenv(f"SLURM_{name}", text)
    assert machine.available_threads() == threads


@pytest.mark.parametrize("name", ["MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE"])
def test_processes_of_mpi_share_a_node(name, many_cores, monkeypatch):
    monkeypatch.setenv(name, "4")
    assert machine.available_threads() == 16
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))  # MPI has bound the processes
    assert machine.available_threads() == 8
    monkeypatch.setenv("NSLOTS", "12")
    assert machine.available_threads() == 3
    # MPICH starts its own daemon by srun, once on each node
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "1")
    assert machine.available_threads() == 3
    monkeypatch.setenv("NCPUS", "2")  # PBS has divided the cores already
    assert machine.available_threads() == 2


def test_a_dask_worker_has_threads_of_its_own(many_cores, monkeypatch):
    """Dask sets OMP_NUM_THREADS to 1 in its workers."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert machine.available_threads() == 1
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=3, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert client.submit(machine.available_threads).result() == 3
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
        assert client.submit(machine.available_threads, pure=False).result() == 2
    monkeypatch.delenv("SLURM_CPUS_PER_TASK")
    assert machine.available_threads() == 1
    monkeypatch.setitem(sys.modules, "distributed", object())  # still being imported
    assert machine.available_threads() == 1
