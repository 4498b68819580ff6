"""The script of the emulated system says what is missing; files of bits are compared."""

import importlib.util
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent

# By what is wrong: programs that answer otherwise, variables, arguments, and what is said.
MISSING = {
    "no program": ({}, {}, [], "no program is given"),
    "not root": ({"id": "echo 1000"}, {}, ["true"], "only root can make, use or remove the system"),
    "another machine": ({"uname": "echo Darwin arm64"}, {}, ["true"], "only Linux x86_64"),
    "another processor": ({}, {"CPU": "i386"}, ["true"], "CPU=i386 is not cortex-a72"),
    "a container": ({"unshare": "exit 1"}, {}, ["true"], "may not make name spaces"),
}


@pytest.mark.parametrize("case", MISSING)
def test_what_is_missing_is_said(case, tmp_path):
    stand_ins, variables, arguments, why = MISSING[case]
    usual = {"id": "echo 0", "uname": "echo Linux x86_64", "unshare": "exit 1"}
    for name, line in (usual | stand_ins).items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    answer = subprocess.run(
        [HERE / "emulate.sh", *arguments], capture_output=True, text=True,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"} | variables,
    )  # fmt: skip
    assert answer.returncode == 1 and answer.stdout == ""
    assert answer.stderr.startswith("aarch64 was not tested: ") and why in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_differences_are_named_and_measured():
    spec = importlib.util.spec_from_file_location("arm_bits", HERE / "bits.py")
    bits = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bits)
    x = np.array([[[4.0, 0.0], [0.0, 1.0]]])
    near = np.nextafter(x, [[9, 0], [1, 1]])  # 4, beside the diagonal 0 becomes 5e-324
    found = {"float64 abs": x, "float64 relu": x, "float64 sin": x, "float64 cos": x}
    other = {"float64 abs": x, "float64 relu": near, "float64 sin": x * [[1], [-1]]}
    assert bits.differences(found, other) == [
        "float64 cos: only in one file",
        "float64 relu: 2 of 4 entries, at most 1 eps",
        "float64 sin: 2 of 4 entries, at most 9.01e+15 eps",  # -0.0 has other bits
    ]
