"""What a checkpoint holds, for people."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ntk_numba.errors import file_error
from ntk_numba.solvers.checkpoint import header_of, newest


class Facts(NamedTuple):
    """What a checkpoint holds, whose checksums have all been compared.

    problem : what it is of, by names
    state : that from which a process would go on; None if nothing was saved yet
    samples : N; 0 without a state
    solved : whether it has a solution
    wrong : what is wrong
    """

    problem: dict[str, str]
    state: dict[str, Any] | None
    samples: int
    solved: bool
    wrong: list[str]


def look_at(path: str | os.PathLike[str]) -> Facts:
    """Read a whole checkpoint, which a process may be writing meanwhile, and compare checksums."""
    head = header_of(path)
    if head is None:
        return Facts({}, None, 0, False, ["the header has changed since it was written"])
    try:
        file = Path(path).open("rb")
    except OSError as error:
        raise file_error(error, f"{path} cannot be opened: {error.strerror}") from None
    with file:
        found = newest(file.fileno(), int(head["area"]))
    state, wrong = found.state, []
    if found.damaged:
        gone = "the same call goes on from the one before" if state else "nothing can be continued"
        wrong = [f"{found.damaged} of the last two states changed or were cut off; {gone}"]
    if state is None:
        return Facts(head["problem"], None, 0, False, wrong)
    if found.records:  # a block of a basis, or a solution
        samples = max(int(record["shape"][0]) for record in found.records)
        solved = state.get("solution") is not None
    else:
        samples = len(found.arrays["solution"])
        solved = bool(np.isfinite(found.arrays["residuals"]).all())
    return Facts(head["problem"], state, samples, solved, wrong)
