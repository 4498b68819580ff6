import importlib
import os
import subprocess
import sys

import pytest
from marks import marked


def has(layer):
    try:
        importlib.import_module(f"numba.np.ufunc.{layer}")
    except ImportError:
        return False
    return True


# The threading layers that can be loaded here; Numba itself takes the first one
LAYERS = [
    layer
    for layer, module in (("tbb", "tbbpool"), ("omp", "omppool"), ("workqueue", "workqueue"))
    if has(module)
]

START = """
import multiprocessing, os, sys, threading, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
import numba, numpy as np
import ntk_numba as nk
from ntk_numba.engine import kernel

X = np.random.default_rng(0).standard_normal((150, 7))

def job(depth, threads=2):
    return nk.gram(nk.MLP(depth), X, threads=threads).ntk.tobytes()

def forked(work):
    pid = os.fork()
    if pid == 0:
        try:
            print(work(), flush=True)
        except Exception as error:
            print(type(error).__name__, error, flush=True)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def run(code, layer, tmp_path, **environment):
    script = tmp_path / "script.py"
    script.write_text(START + code)
    answer = subprocess.run(
        [sys.executable, "-u", script],  # a forked child would write a buffer of its parent again
        env={**os.environ, "NUMBA_THREADING_LAYER": layer, **environment},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()


@pytest.mark.parametrize("layer", marked(pytest.mark.system, LAYERS))
def test_a_forked_child_computes_or_says_why_not(layer, tmp_path):
    code = """
print(forked(lambda: "before " + str(len(job(3)))))
right = job(3)
print(numba.threading_layer())
print(forked(lambda: job(3) == right))
print(forked(lambda: forked(lambda: job(3) == right)))
"""
    first, code_first, used, answer, code_child, grandchild, *codes = run(code, layer, tmp_path)
    assert (first, code_first, used) == ("before 180000", "0", layer)
    assert (code_child, codes) == ("0", ["0", "0"])
    for text in (answer, grandchild):
        if layer == "omp":
            assert text.startswith("ProcessError a process that was forked from one that had comp")
            assert 'get_context("spawn")' in text and "THREADING_LAYER=workqueue" in text
        else:
            assert text == "True"


@pytest.mark.parametrize("layer", marked(pytest.mark.system, LAYERS))
def test_spawned_processes_compute(layer, tmp_path):
    code = """
if __name__ == "__main__":
    right = job(3)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        print(pool.submit(job, 3).result() == right)
"""
    assert run(code, layer, tmp_path) == ["True"]


def test_a_child_that_is_forked_while_another_thread_computes(tmp_path):
    code = """
right = job(3)
with kernel._one_at_a_time:
    print(forked(lambda: job(3) == right))
"""
    assert run(code, "workqueue", tmp_path) == ["True", "0"]


@pytest.mark.parametrize("layer", marked(pytest.mark.system, LAYERS))
def test_threads_of_python_compute_at_once(layer, tmp_path):
    """The threads of a Dask worker call the kernels like this."""
    code = """
depths = [2, 3, 4, 5] * 10
right = {depth: job(depth) for depth in set(depths)}
with ThreadPoolExecutor(4) as pool:
    found = list(pool.map(job, depths, [1, 2] * 20))
print([f == right[depth] for f, depth in zip(found, depths)].count(True))
"""
    assert run(code, layer, tmp_path) == ["40"]


@pytest.mark.skipif(sys.platform != "linux", reason="the system has no times of single threads")
@pytest.mark.parametrize("layer", marked(pytest.mark.system, LAYERS))
def test_one_thread_is_one_thread(layer, tmp_path):
    """Neither BLAS nor Numba keeps a second thread busy, whatever their variables allow."""
    code = """
def ticks():
    found = {}
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        found[thread] = int(fields[11]) + int(fields[12])
    return found

job(3, 1)
X = np.random.default_rng(0).standard_normal((3000, 400))
for write in (False, True):
    before = ticks()
    if write:
        nk.write_gram(nk.MLP(400), X, sys.argv[0] + ".h5", threads=1).close()
    else:
        nk.gram(nk.MLP(400), X, threads=1)
    after = ticks()
    busy = sorted(after[thread] - before.get(thread, 0) for thread in after)
    print(busy[-1], busy[-2], len(after))
"""
    for line in run(code, layer, tmp_path, OPENBLAS_NUM_THREADS="2", OMP_NUM_THREADS="2"):
        most, next_most, threads = map(int, line.split())
        assert most > 20 and next_most < most / 3  # threads that write files take a little time
        assert threads < 12
