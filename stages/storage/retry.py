"""Retry policies: how many attempts a call has, and how long to wait between them.

All policies stand here, so that they can be compared. What counts as temporary is for the caller to say: it knows its library's errors.
tenacity runs the attempts; after the last one, or an error that is not temporary, that error is raised as it is.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tenacity import RetryCallState, Retrying


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """A number of attempts, and waits that double from one to the next."""

    attempts: int  # the first one included
    first_wait_s: float = 0.0
    longest_wait_s: float = 60.0
    jitter: float = 0.0  # share of a wait that may be dropped at random, so that clients which failed together do not return together

    def wait_s(self, failures: int) -> float:
        """Seconds to wait after this many failures in a row, 1 or more."""
        return min(self.longest_wait_s, self.first_wait_s * 2.0 ** (failures - 1)) * random.uniform(1.0 - self.jitter, 1.0)

    def retrying(
        self, is_temporary: Callable[[Exception], bool], *, shortest_wait_s: Callable[[Exception], float] = lambda error: 0.0
    ) -> "Retrying":
        """Run a call by this policy: `policy.retrying(is_temporary)(call)`, or as a loop over attempts (see tenacity.Retrying).

        is_temporary: whether another attempt may succeed after this error. shortest_wait_s: seconds that the other side asked for.
        `statistics` of the returned object has `attempt_number` and `delay_since_first_attempt`, seconds, once the attempts ran out.
        """
        from tenacity import Retrying, retry_if_exception, stop_after_attempt  # 50 ms that `--help` does not need

        def wait(state: "RetryCallState") -> float:
            error = state.outcome and state.outcome.exception()
            assert isinstance(error, Exception)
            return max(self.wait_s(state.attempt_number), shortest_wait_s(error))

        return Retrying(
            stop=stop_after_attempt(self.attempts),
            wait=wait,
            retry=retry_if_exception(lambda error: isinstance(error, Exception) and is_temporary(error)),
            reraise=True,
        )


OBJECT_STORE = RetryPolicy(attempts=8, first_wait_s=1.0, longest_wait_s=20.0, jitter=0.5)  # 1 to 2 minutes in all
GCS = RetryPolicy(attempts=2, first_wait_s=1.0, longest_wait_s=20.0, jitter=0.5)  # gcsfs has retried each request before
DOCTOR_ATTEMPTS = 2  # `textsmooth doctor` on an object store: a quick answer is worth more there than a sure one
HUB = RetryPolicy(attempts=4, first_wait_s=1.0)
NO_RETRY = RetryPolicy(attempts=1)
HUB_MANIFEST = RetryPolicy(attempts=5)  # commit manifest.json onto a repository that others commit to
TEMP_FILE_REMOVED = RetryPolicy(attempts=5)  # another process removed the temporary file of a write
DAMAGED_DOWNLOAD = RetryPolicy(attempts=2)
