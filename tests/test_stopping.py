import pytest

from ntk_numba import stopping


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(stopping, "_asked", False)


def test_at_once_where_nothing_is_written():
    stopping.check()
    with pytest.raises(stopping.StopRequested):
        stopping.ask()


def test_at_the_next_check_while_a_file_is_written():
    reached = []

    def job():
        with stopping.gently():
            stopping.ask()
            reached.append("after the signal")
            stopping.check()
            reached.append("after the check")

    with pytest.raises(stopping.StopRequested):
        job()
    assert reached == ["after the signal"]
    with pytest.raises(stopping.StopRequested):  # not gently any more
        stopping.ask()


def test_several_files_are_written():
    """When one context ends, within another or on another thread, the others still hold."""
    with stopping.gently():
        with stopping.gently():
            pass
        stopping.ask()
        with pytest.raises(stopping.StopRequested):
            stopping.check()
    with pytest.raises(stopping.StopRequested):
        stopping.ask()
