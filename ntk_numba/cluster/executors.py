"""Computing parts on any executor, and recovering from lost workers.

`write.write_gram` calls `run_parts`. The result of a part is on disk: a part can be computed
anywhere and any number of times, and costs little if it is done already. So only those functions
of an executor are used that all executors have (submit, wait, result, shutdown), and everything
else is done here: a part whose worker was lost is tried again, a pool that broke is replaced, and
parts that could not be done are named in an error.
"""

import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from contextlib import nullcontext

from tqdm import tqdm

from ntk_numba import stopping
from ntk_numba.arguments import whole_number
from ntk_numba.cluster.schedulers import Pool, pool_of
from ntk_numba.cluster.workers import AnyExecutor, Receipt, Task, attempt
from ntk_numba.errors import StoppedError

POLL = 0.2  # seconds between two checks whether to stop
# Seconds before the second try of a part, doubled before each further one: another process that
# holds the file of the part may end in the meantime
PAUSE = 1.0
SILENCE = 30.0  # seconds without an end of any part, after which the executor is checked
REASONS = 5  # reasons that an error message lists


def run_parts(
    executor: AnyExecutor | Pool,
    task: Task,
    parts: Sequence[int],
    *,
    attempts: int = 3,
    progress: bool = False,
) -> list[Receipt]:
    """Run ``task(part)`` for all parts on the workers of an executor.

    Parameters
    ----------
    executor : Executor, or a function without arguments that makes one
        If a worker dies, pools of the standard library and of loky end with it. They are replaced
        if a function was given that makes them; so is loky's reusable pool, without its
        initializer. A `Pool` stays open for the caller's next parts.
    task : picklable function
        It continues where an earlier try of the part stopped.
    parts : distinct numbers
    attempts : int
        The number of tries of a part that raises an OSError or MemoryError, or whose worker is
        lost. If a pool breaks, it is unknown which part broke it. So its parts are tried again,
        fewer at a time, and a part is blamed once it was alone. After `attempts` such breaks in a
        row, with no part done in between, the pool is given up.
    progress : bool
        Whether to show parts, rate and remaining time on standard error.

    Returns
    -------
    list of Receipt
        One for each part, in the order of the parts.

    Raises
    ------
    StoppedError
        An OSError: some parts could not be done, and all others are done. The text names them.
    ValueError, TypeError
        `executor` is not an executor; or the task raised such an error. Errors of the task other
        than OSError and MemoryError are raised at once.
    """
    whole_number("attempts", attempts)
    bar = tqdm(total=len(parts), unit="part", disable=not progress)
    opened = nullcontext(executor) if isinstance(executor, Pool) else pool_of(executor)
    with stopping.gently(), bar, opened as pool:
        run = _PartRun(pool, task, parts, attempts)
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
        raise StoppedError(_loss_text(run.lost, len(parts)))
    return [run.receipts[part] for part in parts]


class _PartRun:
    """The parts that are waiting, running, done and lost.

    Attributes
    ----------
    waiting : by part, the time before which it must not start
    running : by future, its part
    receipts : by part that is done, its receipt
    lost : by part that is given up, the reason
    """

    def __init__(self, pool: Pool, task: Task, parts: Sequence[int], attempts: int) -> None:
        self._pool, self._task, self._attempts = pool, task, attempts
        self.waiting = dict.fromkeys(parts, 0.0)
        self.running: dict[Future[Receipt], int] = {}
        self.receipts: dict[int, Receipt] = {}
        self.lost: dict[int, str] = {}
        self._tries = dict.fromkeys(parts, 0)
        self._window = self._max_window = max(len(parts), 1)  # parts that may run at once
        self._share = pool.share(len(parts))
        self._breaks = 0  # times that the pool broke with one part in it, since a part was done
        self._suspects: set[int] = set()  # parts whose workers were lost
        self._last_end = time.monotonic()  # when a part ended last

    def step(self) -> None:
        """Submit the parts that may run, wait a little, and collect those that have ended."""
        try:
            self._submit()
            if self.running:
                ended = wait(self.running, POLL, FIRST_COMPLETED).done
                for future in ended:
                    self._take(future)
                self._check_pool(bool(ended))
            else:
                time.sleep(POLL)
        except BrokenExecutor as error:
            self._replace_pool(f"a worker was lost: {_text(error, 1)}")

    def abandon(self) -> None:
        """Cancel the parts that have not begun, and give the others a little time to stop."""
        remaining = list(self.running)
        if not self._pool.stop():  # a standard pool that ends does not expect cancelled futures
            remaining = [future for future in remaining if not future.cancel()]
        wait(remaining, stopping.WORKER_PATIENCE)

    def _submit(self) -> None:
        """Submit waiting parts, as many as may run at once."""
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
            except Exception as error:  # shut down, without a scheduler, or no new process
                self._give_up(f"the executor takes no more parts: {_text(error)}")
                break
            self.running[future] = part
            del self.waiting[part]

    def _check_pool(self, part_ended: bool) -> None:
        """Give up if no part has ended for a long time and the executor is gone."""
        now = time.monotonic()
        if part_ended:
            self._last_end = now
        elif now - self._last_end > SILENCE:
            self._last_end = now
            try:
                self._pool.check()
            except Exception as error:
                self._give_up(f"the executor is gone: {_text(error)}")

    def _has_to_wait(self, part: int) -> bool:
        """Return whether the part has to wait since another suspect is running.

        Suspects are parts whose workers were lost. Dask blames all parts that a lost worker had, so
        an innocent part may be among them; it must not run beside the guilty one again.
        """
        return part in self._suspects and not self._suspects.isdisjoint(self.running.values())

    def _take(self, future: Future[Receipt]) -> None:
        """Record the result or the error of a part that has ended."""
        if future not in self.running:  # its part was given up in the meantime
            return
        part = self.running[future]
        try:
            error = future.exception()
        except CancelledError as cancelled:  # the scheduler has cancelled it
            error = cancelled
        if isinstance(error, BrokenExecutor):
            raise error
        del self.running[future]
        if error is None and not future.result().stopped:
            self.receipts[part] = future.result()
            self._window = min(2 * self._window, self._max_window)
            self._breaks = 0
        elif error is None or isinstance(error, (stopping.StopRequested, KeyboardInterrupt)):
            # the worker would stop any other part too, and is hardly the only one that was asked
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
        """Count a failed try of a part: let it wait for the next one, or give it up."""
        self._tries[part] += 1
        if self._tries[part] >= self._attempts:
            self.lost[part] = reason
        else:
            self.waiting[part] = time.monotonic() + PAUSE * 2 ** (self._tries[part] - 1)

    def _replace_pool(self, reason: str) -> None:
        """Replace a broken pool by a new one, and requeue its parts.

        All parts of the pool have ended, though only one of them broke it.
        """
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
            # the oldest parts come last: one of them broke the pool, others should finish first
            self.waiting |= dict.fromkeys(reversed(suspects), 0.0)
        else:
            self._breaks += 1
            for part in suspects:
                self._blame(part, reason)
        if not self._pool.can_renew:
            self._give_up(
                f"{reason}, and this pool ended with it; to have it replaced, give a function, as "
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
        """Give up all parts that have not begun."""
        self.lost |= dict.fromkeys(self.waiting, reason)
        self.waiting.clear()
        for future in list(self.running):
            if future.cancel():
                self.lost[self.running.pop(future)] = reason


def _text(error: BaseException, sentences: int | None = None) -> str:
    """Return the text of an error on one line, or only its first `sentences` sentences."""
    text = " ".join(str(error).split()) or type(error).__name__
    return ". ".join(text.rstrip(".").split(". ")[:sentences])


def _loss_text(lost: dict[int, str], count: int) -> str:
    """Return the text of an error that names the lost parts and the reasons."""
    by_reason: dict[str, list[int]] = {}
    for part, reason in sorted(lost.items()):
        by_reason.setdefault(reason, []).append(part)
    reasons = [
        f"{','.join(map(str, parts))}: {reason}"
        for reason, parts in list(by_reason.items())[:REASONS]
    ]
    if len(by_reason) > REASONS:
        reasons.append("and so on")
    return (
        f"{len(lost):,} of {count:,} parts could not be done: {','.join(map(str, sorted(lost)))} "
        f"({'; '.join(reasons)}); the others are kept; run the same again to go on"
    )
