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
}
RIGHT = {
    "NUMBA_DISABLE_JIT": ("", "0"),
    "NUMBA_NUM_THREADS": ("", "1", " 64 ", "08"),
    "NUMBA_THREADING_LAYER": ("", "workqueue", "safe"),
    "NUMBA_THREADING_LAYER_PRIORITY": ("", "omp tbb workqueue"),
    "NUMBA_CPU_FEATURES": ("", "+avx2,-avx512f", "+sse"),
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
