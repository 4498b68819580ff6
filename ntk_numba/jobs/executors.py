"""Parts of a job in other processes."""

from typing import NamedTuple


class Receipt(NamedTuple):
    """What a part's job hands back."""

    part: int
    path: str
    tiles: int
    seconds: float
    host: str
    stopped: bool
