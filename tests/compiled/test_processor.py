import llvmlite.binding as llvm
import numba
import pytest

from ntk_numba.compiled.processor import processor


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("haswell", "haswell"), ("x86-64-v3", "x86-64-v3"), ("", "unknown"),
        ("a, b", "unknown"), ("é", "unknown"), ("x" * 41, "unknown"), ("a\n", "unknown"),
    ],
)  # fmt: skip
def test_the_name_that_numba_is_given(monkeypatch, given, name):
    monkeypatch.setattr(numba.config, "CPU_NAME", given)
    assert processor() == name


def test_the_name_of_this_machine(monkeypatch):
    monkeypatch.setattr(numba.config, "CPU_NAME", None)
    assert processor() == llvm.get_host_cpu_name()


def test_it_is_the_name_for_which_numba_compiles():
    from numba.core.registry import cpu_target

    assert processor() == cpu_target.target_context.codegen().magic_tuple()[1]
