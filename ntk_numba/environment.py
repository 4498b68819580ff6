"""The variables of the environment that Numba reads, checked before it is imported.

Numba answers a wrong value with an error from deep inside, with an abort of the process, or by
ignoring it. All wings that import Numba import this file first.
"""

import os
import re

from ntk_numba.errors import ProcessError

LAYERS = ("tbb", "omp", "workqueue")
LOCATORS = ("UserProvided", "InTree", "UserWide", "IPython", "Zip")  # of the cache on disk
KINDS_OF_LAYERS = ("default", "safe", "forksafe", "threadsafe")


def check_environment() -> None:
    """Raise an error if a variable of Numba's keeps it from compiling or from computing.

    Raises
    ------
    RuntimeError
        If NUMBA_DISABLE_JIT is set, or NUMBA_NUM_THREADS, NUMBA_THREADING_LAYER,
        NUMBA_THREADING_LAYER_PRIORITY, NUMBA_CPU_FEATURES or NUMBA_CACHE_LOCATOR_CLASSES
        has a value that Numba does not take.
    """

    def value(name: str) -> str:
        return os.environ.get(name, "").strip()

    def refuse(name: str, why: str) -> ProcessError:
        return ProcessError(f"the environment variable {name}={value(name)} {why}, or unset it")

    if value("NUMBA_DISABLE_JIT") not in ("", "0"):
        raise refuse(
            "NUMBA_DISABLE_JIT", "switches the compiler off, which all kernels need: set 0"
        )
    threads = value("NUMBA_NUM_THREADS")
    if threads and not re.fullmatch(r"\+?0*[1-9][0-9]*", threads):
        raise refuse(
            "NUMBA_NUM_THREADS", "is no number of threads: set a whole number of at least 1"
        )
    layer = value("NUMBA_THREADING_LAYER")
    if layer and layer not in LAYERS + KINDS_OF_LAYERS:
        known = ", ".join(LAYERS + KINDS_OF_LAYERS)
        raise refuse("NUMBA_THREADING_LAYER", f"names no threading layer: set one of {known}")
    priority = value("NUMBA_THREADING_LAYER_PRIORITY")
    if priority and sorted(priority.split()) != sorted(LAYERS):
        raise refuse(
            "NUMBA_THREADING_LAYER_PRIORITY",
            f"does not name each threading layer once: set '{' '.join(LAYERS)}' in any order",
        )
    features = value("NUMBA_CPU_FEATURES")
    if features and not all(f.strip()[:1] in ("+", "-") for f in features.split(",")):
        raise refuse(
            "NUMBA_CPU_FEATURES",
            "is no list of features: set one such as '+avx2,-avx512f', each with + or -",
        )
    locators = [f"{name}CacheLocator" for name in LOCATORS]
    given = [name.strip() for name in value("NUMBA_CACHE_LOCATOR_CLASSES").split(",")]
    if given != [""] and not all(name in locators or "." in name for name in given):
        raise refuse(
            "NUMBA_CACHE_LOCATOR_CLASSES",
            f"names no classes of Numba's cache: set some of {', '.join(locators)}",
        )


check_environment()
