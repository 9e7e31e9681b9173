"""The short form of `make chaos`."""

from chaos import chaos


def test_whatever_is_killed_nothing_is_lost() -> None:
    done = chaos(rounds=5, seed=1)
    assert len({found.kind for found in done}) == 5
    assert [found.wrong for found in done] == [()] * 5
