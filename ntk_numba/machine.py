"""The cores and the memory that this process may use, whatever limits them."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import psutil

from ntk_numba.arguments import whole_number
from ntk_numba.environment import check_environment

# Python, Numba and LLVM take 250 to 335 MiB of resident memory, most of it while compiling.
INTERPRETER = 320 << 20

CGROUP = Path("/sys/fs/cgroup")

# The variables in which schedulers state the cores of a process. PBS sets NCPUS, as it does
# OMP_NUM_THREADS, to the threads of a process.
OF_A_PROCESS = ("SLURM_CPUS_PER_TASK", "NCPUS")
# The variables in which they state the cores of a job on this node, which the processes of the job
# share there. Grid Engine (NSLOTS) and LSF count the slots of all nodes, so their numbers are too
# large for a job on several nodes.
OF_A_NODE = ("SLURM_CPUS_ON_NODE", "PBS_NUM_PPN", "NSLOTS", "LSB_DJOB_NUMPROC")

_computing = 0  # computing processes on this node, as set by `share_node`; 0 if it was not called


def _cgroup_folders(controller: str) -> list[Path]:
    """Return the folders of this process's control groups, version 2 or 1, the outermost last."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = CGROUP
        elif controller in controllers.split(","):
            root = CGROUP / controller
        else:
            continue
        folder = root / path.lstrip("/")
        while True:
            folders.append(folder)
            if folder == root:
                break
            folder = folder.parent
    return folders


def _numbers(path: Path) -> list[int]:
    """Return the whole numbers in a small system file; none if it is missing or says "max"."""
    try:
        return [int(word) for word in path.read_text().split() if word.lstrip("-").isdigit()]
    except OSError:
        return []


def _variable(name: str) -> int:
    """Return the first whole number in an environment variable; 0 if there is none."""
    text = os.environ.get(name, "").split(",")[0].strip()
    return int(text) if text.isdigit() else 0


def available_memory() -> int:
    """Return the number of bytes that this process may still use.

    It is the least of the machine's free memory, the unused part of the limits of its control
    groups, the memory that Slurm gave the job on this node, the memory that Dask gave its worker,
    and the unused part of the limit on its address space.
    """
    limits = [psutil.virtual_memory().available]
    for folder in _cgroup_folders("memory"):
        for limit, usage in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            if allowed := _numbers(folder / limit):
                used = (_numbers(folder / usage) or [0])[0]
                caches = (folder / "memory.stat").read_text().split() if used else []
                # the page cache counts as used, but the system reclaims it when it is needed
                stats = dict(zip(caches[::2], caches[1::2], strict=False))
                reclaimable = int(stats.get("inactive_file", stats.get("total_inactive_file", 0)))
                limits.append(max(allowed[0] - used + reclaimable, 0))
    # Slurm's numbers are in MiB; 0 stands for all memory
    if node := _variable("SLURM_MEM_PER_NODE"):
        limits.append(node << 20)
    elif core := _variable("SLURM_MEM_PER_CPU"):
        limits.append((core << 20) * (_variable("SLURM_CPUS_ON_NODE") or 1))
    if worker := _dask_worker():
        limits.append(worker.memory_manager.memory_limit or limits[0])
    if os.name == "posix":
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            limits.append(max(soft - psutil.Process().memory_info().vms, 0))
    return min(limits)


def job_memory(limit: int) -> int:
    """Return the bytes that a job may take if its whole process may take `limit`."""
    return max(limit - INTERPRETER, limit // 2)


def share_node(processes: int) -> None:
    """Set how many processes compute on this node, if not all that a launcher started do so."""
    global _computing
    _computing = processes


def allowed_cores() -> set[int]:
    """Return the numbers of the cores that this process is bound to; all, if it cannot be bound."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))  # macOS


def available_threads() -> int:
    """Return the number of cores that this process may keep busy.

    It is the least of its affinity, the quotas of its control groups, Numba's own limit, the cores
    that Slurm, PBS, Grid Engine or LSF gave it, and OMP_NUM_THREADS, of which the first number
    counts if it is a list. Processes that MPI or srun started on a node share its cores. Within a
    task of Dask, the threads of the worker take the place of OMP_NUM_THREADS, which Dask sets to 1
    in all workers.
    """
    check_environment()
    # Those who only read files wait for no compiler
    known = sys.modules.get("numba")
    numbas = known.config.NUMBA_NUM_THREADS if known else _variable("NUMBA_NUM_THREADS")
    limits: list[int] = [numbas] if numbas else []
    limits.append(len(allowed_cores()))
    for folder in _cgroup_folders("cpu"):
        quota = _numbers(folder / "cpu.max")
        if len(quota) != 2:  # "max 100000" means that there is none
            quota = _numbers(folder / "cpu.cfs_quota_us") + _numbers(folder / "cpu.cfs_period_us")
        if len(quota) == 2 and quota[0] > 0:
            limits.append(max(quota[0] // quota[1], 1))
    shared = [os.cpu_count() or 1, *map(_variable, OF_A_NODE)]
    limits += [max(cores // _processes_here(), 1) for cores in shared if cores]
    own = [dask_threads() or _variable("OMP_NUM_THREADS"), *map(_variable, OF_A_PROCESS)]
    limits += [cores for cores in own if cores]
    return min(limits)


def _processes_here() -> int:
    """Return how many processes a launcher started on this node, this one included.

    A batch script counts as one process, however many tasks are requested. SLURM_TASKS_PER_NODE is
    not used: a batch script sees it too, and it counts cores if no number of tasks is requested.
    """
    if _computing:
        return _computing
    for name in ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE"):  # MPICH and Intel, Open MPI
        if count := _variable(name):
            return count
    # "2(x3),1": two on each of the first three nodes, one on the fourth
    runs = re.findall(r"(\d+)(?:\(x(\d+)\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    counts = [int(count) for count, nodes in runs for _ in range(int(nodes or 1))]
    node = _variable("SLURM_NODEID")
    return max(counts[node], 1) if node < len(counts) else 1


def _dask_worker() -> Any:
    """Return the Dask worker that runs this task; None outside of a task."""
    try:
        return sys.modules["distributed"].get_worker()
    except (KeyError, ValueError, AttributeError):  # outside of a task, or still being imported
        return None


def dask_threads() -> int:
    """Return the threads of the Dask worker that runs this task; 0 outside of a task."""
    worker = _dask_worker()
    return int(worker.state.nthreads) if worker else 0


def threads_to_use(threads: int | None) -> int:
    """Return the wanted number of threads, by default all, and at most `available_threads()`."""
    if threads is None:
        return available_threads()
    return min(whole_number("threads", threads), available_threads())
