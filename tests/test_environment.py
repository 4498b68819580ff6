"""Wrong variables of the environment get one clear sentence, in a program and on the command line.

The sentence comes before Numba is imported, which would raise errors of its own or abort.
"""

import subprocess
import sys

import pytest

from ntk_numba.environment import check_environment
from ntk_numba.errors import ProcessError

WRONG = {
    "NUMBA_DISABLE_JIT": ("1", "2", "yes"),
    "NUMBA_NUM_THREADS": ("0", "-1", "1.5", "many", "00"),
    "NUMBA_THREADING_LAYER": ("nonsense", "TBB"),
    "NUMBA_THREADING_LAYER_PRIORITY": ("omp", "tbb omp omp", "foo"),
    "NUMBA_CPU_FEATURES": ("avx2", "+avx2,sse"),
    "NUMBA_CACHE_LOCATOR_CLASSES": ("foo", "InTreeCacheLocator,foo"),
}
RIGHT = {
    "NUMBA_DISABLE_JIT": ("", "0"),
    "NUMBA_NUM_THREADS": ("", "1", " 64 ", "08"),
    "NUMBA_THREADING_LAYER": ("", "workqueue", "safe"),
    "NUMBA_THREADING_LAYER_PRIORITY": ("", "omp tbb workqueue"),
    "NUMBA_CPU_FEATURES": ("", "+avx2,-avx512f", "+sse"),
    "NUMBA_CACHE_LOCATOR_CLASSES": ("", "InTreeCacheLocator", "my.Locator, ZipCacheLocator"),
}


def each(table):
    return [(name, value) for name, values in table.items() for value in values]


@pytest.mark.parametrize(("name", "value"), each(WRONG))
def test_wrong_values_are_refused(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ProcessError, match=f"variable {name}=.*, or unset it$"):
        check_environment()


@pytest.mark.parametrize(("name", "value"), each(RIGHT))
def test_right_values_are_not(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    check_environment()


def test_a_threading_layer_that_is_missing(monkeypatch):
    from ntk_numba.compiled import parallel

    def fail():
        raise ValueError("No threading layer could be loaded.\nHINT:\nIntel TBB is required")

    monkeypatch.setattr(parallel.numba, "get_num_threads", fail)
    with pytest.raises(ProcessError, match=r"=\w+ names .* HINT: Intel TBB is req.*; unset it$"):
        parallel.threads_now()


START = [
    ["-m", "ntk_numba", "gram", "x.npy", "-o", "g.h5", "--depth", "2"],
    ["-c", "import ntk_numba as nk; nk.dual('relu', 1, 1, 1)"],
    ["-c", "import ntk_numba as nk; nk.MLP(2)"],
    ["-c", "from ntk_numba import finite_width as f; f.sample"],
]


@pytest.mark.parametrize("words", START)
def test_processes_say_it_before_numba_does(words, monkeypatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", "0")
    answer = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert "NUMBA_NUM_THREADS=0 is no number of threads" in answer.stderr.splitlines()[-1]
    if words[0] == "-m":
        assert answer.returncode == 2 and len(answer.stderr.splitlines()) == 1
