"""The processor for which functions are compiled."""

import re

import llvmlite.binding as llvm
import numba


def processor() -> str:
    """Return LLVM's name of the processor for which Numba compiles, such as "znver5".

    It is the value of NUMBA_CPU_NAME or, without one, that of the processor of this machine. A
    value that cannot be a name gives "unknown"; LLVM compiles for any processor then.
    """
    given = numba.config.CPU_NAME  # type: ignore[attr-defined]
    name = llvm.get_host_cpu_name() if given is None else given
    return name if re.fullmatch(r"[A-Za-z0-9_.+-]{1,40}", name) else "unknown"
