"""A retry policy makes as many attempts as it says, waits in between, and raises the last error as it is."""

import pytest

from textsmooth.stages.storage.retry import HUB, NO_RETRY, OBJECT_STORE, RetryPolicy


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of each wait; nobody waits."""
    seconds: list[float] = []
    monkeypatch.setattr("time.sleep", seconds.append)
    return seconds


class Flaky:
    """A call that fails a number of times."""

    def __init__(self, failures: int, error: type[BaseException] = ConnectionError) -> None:
        self.failures, self.error, self.calls = failures, error, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error(f"failure {self.calls}")
        return "answer"


def is_connection_error(error: Exception) -> bool:
    return isinstance(error, ConnectionError)


@pytest.mark.parametrize(
    ("policy", "expected"), [(HUB, [1.0, 2.0, 4.0]), (RetryPolicy(attempts=4), [0.0] * 3), (RetryPolicy(attempts=1, first_wait_s=1), [])]
)
def test_waits_double_and_the_last_error_is_raised_as_it_is(policy: RetryPolicy, expected: list[float], waits: list[float]) -> None:
    call = Flaky(policy.attempts)
    retrying = policy.retrying(is_connection_error)
    with pytest.raises(ConnectionError, match=f"failure {policy.attempts}"):
        retrying(call)
    assert waits == expected and retrying.statistics["attempt_number"] == call.calls == policy.attempts


def test_a_call_that_succeeds_in_the_last_attempt_returns_its_answer(waits: list[float]) -> None:
    call = Flaky(OBJECT_STORE.attempts - 1)
    assert OBJECT_STORE.retrying(is_connection_error)(call) == "answer"
    longest = [1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0]
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, longest, strict=True))
    assert len({wait / most for wait, most in zip(waits, longest, strict=True)}) > 1  # jitter


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_that_is_not_temporary_is_raised_at_once(error: type[BaseException], waits: list[float]) -> None:
    call = Flaky(1, error)
    with pytest.raises(error):
        HUB.retrying(is_connection_error)(call)
    assert call.calls == 1 and waits == []


def test_a_server_may_ask_for_a_longer_wait_but_not_for_a_shorter_one(waits: list[float]) -> None:
    HUB.retrying(is_connection_error, shortest_wait_s=lambda error: 3.0)(Flaky(3))
    assert waits == [3.0, 3.0, 4.0]


def test_no_retry_is_one_attempt(waits: list[float]) -> None:
    call = Flaky(1)
    with pytest.raises(ConnectionError):
        NO_RETRY.retrying(is_connection_error)(call)
    assert call.calls == 1 and waits == []
