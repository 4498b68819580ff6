"""Parts on any executor, and what is done when workers are lost.

What a part is, is on disk: it can be computed anywhere and any number of times, and one that is
done costs nothing when it is asked for again. So of a scheduler no more is used than all have in
common (submit, wait, result, shutdown), and all the rest is done here: a part whose worker was lost
is tried again, a pool that broke is made anew, and what cannot be done is named.
"""

import time
from collections.abc import Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Future,
    wait,
)

from tqdm import tqdm

from ntk_numba import stopping
from ntk_numba.arguments import whole_number
from ntk_numba.cluster.schedulers import Pool, pool_of
from ntk_numba.cluster.workers import (
    AnyExecutor,
    Receipt,
    Task,
    attempt,
)
from ntk_numba.errors import StoppedError

__all__ = ["Receipt", "run_parts"]

POLL = 0.2  # seconds between two looks whether we are to stop
PAUSE = 1.0  # seconds before a second try, twice that before a third: what holds a file may end
SILENCE = 30.0  # seconds without an end of a part, after which Dask is asked whether it is there
REASONS = 5  # that are told


def run_parts(
    executor: AnyExecutor,
    task: Task,
    parts: Sequence[int],
    *,
    attempts: int = 3,
    progress: bool = False,
) -> list[Receipt]:
    """``task(part)`` for all parts, on the workers of an executor.

    Parameters
    ----------
    executor : Executor, or a function without arguments that makes one
        If a worker dies, pools of the standard library and of loky end with it. A pool that a
        function made is made anew; so is loky's reusable one, without its initializer.
    task : picklable
        Goes on with what an earlier try of the part left.
    parts : distinct numbers
    attempts : int
        How often a part is tried that raises an OSError or MemoryError, or whose worker is lost. Of
        a pool that breaks, nobody knows which part did it; so the same parts are tried again, fewer
        at a time, and a part is blamed when it was alone. After as many such breaks in a row,
        without any part done in between, the pool is given up.
    progress : bool
        Show parts, rate and remaining time on standard error.

    Returns
    -------
    list of Receipt
        In the order of the parts.

    Raises
    ------
    StoppedError
        An OSError: parts that could not be done, after all others were. The text names them.
    ValueError, TypeError
        As the task raises, at once, like all other errors that are no OSError; an executor that is
        none.
    """
    whole_number("attempts", attempts)
    bar = tqdm(total=len(parts), unit="part", disable=not progress)
    with stopping.gently(), bar, pool_of(executor) as pool:
        run = _Run(pool, task, parts, attempts)
        try:
            while run.waiting or run.running:
                stopping.check()
                run.step()
                bar.update(len(run.receipts) - bar.n)
            stopping.check()
        except BaseException as error:
            run.abandon()
            if isinstance(error, (stopping.StopRequested, KeyboardInterrupt)):
                error.add_note(
                    f"{len(run.receipts):,} of {len(parts):,} parts are done; "
                    "run the same again to go on"
                )
            raise
    if run.lost:
        raise StoppedError(_names(run.lost, len(parts)))
    return [run.receipts[part] for part in parts]


class _Run:
    """What is waiting, running, done and lost.

    Attributes
    ----------
    waiting : a part: not before this time
    running : a future: its part
    receipts, lost : a part: what came back, or why it is given up
    """

    def __init__(self, pool: Pool, task: Task, parts: Sequence[int], attempts: int) -> None:
        self._pool, self._task, self._attempts = pool, task, attempts
        self.waiting = dict.fromkeys(parts, 0.0)
        self.running: dict[Future[Receipt], int] = {}
        self.receipts: dict[int, Receipt] = {}
        self.lost: dict[int, str] = {}
        self._tries = dict.fromkeys(parts, 0)
        self._window = self._most = max(len(parts), 1)  # that may run at once
        self._share = pool.share(len(parts))
        self._breaks = 0  # of the pool with one part in it, since one was done
        self._suspects: set[int] = set()
        self._heard = time.monotonic()  # when a part ended last

    def step(self) -> None:
        """Submit what may run, wait a little, and take what has ended."""
        try:
            self._submit()
            if self.running:
                ended = wait(self.running, POLL, FIRST_COMPLETED).done
                for future in ended:
                    self._take(future)
                self._listen(bool(ended))
            else:
                time.sleep(POLL)
        except BrokenExecutor as error:
            self._mend(f"a worker was lost: {_text(error, 1)}")

    def abandon(self) -> None:
        """Leave: drop what has not begun, and give the rest a little time to stop."""
        left = list(self.running)
        if not self._pool.stop():  # futures that are cancelled upset a standard pool that then ends
            left = [future for future in left if not future.cancel()]
        wait(left, stopping.WORKER_PATIENCE)

    def _submit(self) -> None:
        now = time.monotonic()
        for part, start in list(self.waiting.items()):
            if len(self.running) >= self._window:
                break
            if start > now or self._has_to_wait(part):
                continue
            try:
                future = self._pool.executor.submit(
                    attempt, self._task, part, self._tries[part], self._share
                )
            except BrokenExecutor:
                raise
            except Exception as error:  # it is shut down, its scheduler is gone, no new process
                self._give_up(f"the executor takes no more parts: {_text(error)}")
                break
            self.running[future] = part
            del self.waiting[part]

    def _listen(self, heard: bool) -> None:
        """Give up when the executor is gone that parts are waited for."""
        now = time.monotonic()
        if heard:
            self._heard = now
        elif now - self._heard > SILENCE:
            self._heard = now
            try:
                self._pool.check()
            except Exception as error:
                self._give_up(f"the executor is gone: {_text(error)}")

    def _has_to_wait(self, part: int) -> bool:
        """Whether another part is running that is suspected of its worker's death, as this one is.

        Dask blames all that a worker had in hand, so a part may be suspected that was next to the
        one that did it; let it not be there again.
        """
        return part in self._suspects and not self._suspects.isdisjoint(self.running.values())

    def _take(self, future: Future[Receipt]) -> None:
        if future not in self.running:  # given up meanwhile
            return
        part = self.running[future]
        try:
            error = future.exception()
        except CancelledError as cancelled:  # by its scheduler
            error = cancelled
        if isinstance(error, BrokenExecutor):
            raise error
        del self.running[future]
        if error is None and not future.result().stopped:
            self.receipts[part] = future.result()
            self._window = min(2 * self._window, self._most)
            self._breaks = 0
        elif error is None or isinstance(error, (stopping.StopRequested, KeyboardInterrupt)):
            # it would stop whatever it is given, and is hardly the only one that was asked
            self.waiting[part] = 0.0
            self._give_up("its worker was asked to stop")
        elif isinstance(error, CancelledError):
            self._blame(part, "its scheduler has cancelled it")
        elif self._pool.is_lost(error):
            self._suspects.add(part)
            self._blame(part, f"its workers were lost: {_text(error, 1)}")
        elif isinstance(error, (OSError, MemoryError)):
            self._blame(part, _text(error))
        else:
            raise error

    def _blame(self, part: int, reason: str) -> None:
        self._tries[part] += 1
        if self._tries[part] >= self._attempts:
            self.lost[part] = reason
        else:
            self.waiting[part] = time.monotonic() + PAUSE * 2 ** (self._tries[part] - 1)

    def _mend(self, reason: str) -> None:
        """Make a broken pool anew. All its parts end, though one alone has done it."""
        ended = wait(self.running, stopping.WORKER_PATIENCE).done
        suspects = []
        for future, part in list(self.running.items()):
            try:
                if future in ended:
                    self._take(future)
                    continue
            except BrokenExecutor:
                pass
            suspects.append(part)
        self.running.clear()
        if len(suspects) > 1:
            self._window = len(suspects) // 2
            # those that began first, one of which has done it, come last, that others be done
            self.waiting |= dict.fromkeys(reversed(suspects), 0.0)
        else:
            self._breaks += 1
            for part in suspects:
                self._blame(part, reason)
        if not self._pool.can_renew:
            self._give_up(
                f"{reason}, and this pool ended with it: to have it made anew, give a function, as "
                'lambda: ProcessPoolExecutor(2, mp_context=get_context("spawn"))'
            )
        elif self._breaks >= self._attempts:
            self._give_up(reason)
        elif self.waiting:
            try:
                self._pool.renew()
            except OSError as error:
                self._give_up(f"{reason}, and there is no new one: {_text(error)}")

    def _give_up(self, reason: str) -> None:
        """Begin no more parts."""
        self.lost |= dict.fromkeys(self.waiting, reason)
        self.waiting.clear()
        for future in list(self.running):
            if future.cancel():
                self.lost[self.running.pop(future)] = reason


def _text(error: BaseException, sentences: int | None = None) -> str:
    """What an error says, on one line; some go on for long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return ". ".join(text.rstrip(".").split(". ")[:sentences])


def _names(lost: dict[int, str], count: int) -> str:
    """The parts that are lost, and why."""
    because: dict[str, list[int]] = {}
    for part, reason in sorted(lost.items()):
        because.setdefault(reason, []).append(part)
    reasons = [
        f"{','.join(map(str, parts))}: {reason}"
        for reason, parts in list(because.items())[:REASONS]
    ]
    if len(because) > REASONS:
        reasons.append("and so on")
    return (
        f"{len(lost):,} of {count:,} parts could not be done: {','.join(map(str, sorted(lost)))} "
        f"({'; '.join(reasons)}); the others are kept; run the same again to go on"
    )
