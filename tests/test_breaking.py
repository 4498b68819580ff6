"""Nothing is lost, whatever breaks: the experiments of `breaking`, with few rounds of each.

``make soak`` runs more rounds.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from marks import marked

BREAKING = Path(__file__).with_name("breaking.py")


def experiment(name: str, rounds: int) -> dict:
    command = [sys.executable, BREAKING, name, str(rounds)]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    result = json.loads(answer.stdout)
    assert result.pop("examples") == []
    return result


# How many calls fail, one in each round: the first few, or all, which are fewer than a thousand
CALLS = marked(pytest.mark.system, [3, 1000])


@pytest.mark.parametrize("rounds", CALLS)
def test_every_call_fails_or_is_the_last(rounds):
    result = experiment("faults", rounds)
    points = result.pop("calls")  # of those that were all tried
    if rounds < 1000:
        assert points == {} and result == {"right": 6 * rounds}
    else:
        assert len(points) == 6 and min(points.values()) > 40
        assert result == {"right": sum(points.values())}


@pytest.mark.parametrize("rounds", marked(pytest.mark.system, [1, 1000]))
def test_every_call_of_a_merge_fails_or_is_the_last(rounds):
    result = experiment("merges", rounds)
    points = result.pop("calls")
    if rounds < 1000:
        assert points == {} and result == {"right": 9 * rounds}
    else:
        assert len(points) == 9 and min(points.values()) > 20
        assert result == {"right": sum(points.values())}


@pytest.mark.system
def test_every_call_of_a_model_fails_or_is_the_last():
    result = experiment("models", 1000)
    points = result.pop("calls")
    assert len(points) == 6 and min(points.values()) > 8
    assert result == {"right": sum(points.values())}


@pytest.mark.system
def test_power_failures_while_a_model_is_written():
    assert experiment("crashed_models", 60) == {"right": 60}


@pytest.mark.system
def test_calls_of_a_checkpoint_fail_or_are_the_last():
    result = experiment("solutions", 5)
    assert result["calls"] >= 75 and result == {"right": result["calls"], "calls": result["calls"]}


@pytest.mark.system
def test_iterations_that_are_killed_at_random_times():
    result = experiment("killed_solutions", 10)
    assert result.keys() == {"right", "kills"} and result["kills"] >= 10


@pytest.mark.system
def test_power_failures_while_a_checkpoint_is_written():
    assert experiment("crashed_solutions", 30) == {"right": 30}


@pytest.mark.system
def test_damage_of_checkpoints():
    result = experiment("damaged_solutions", 40)
    assert result.keys() == {"refused", "right"} and sum(result.values()) == 120
    assert result["right"] > 60


@pytest.mark.parametrize("rounds", marked(pytest.mark.system, [5, 60]))
def test_kills_at_random_times(rounds):
    result = experiment("kills", rounds)
    assert result.keys() == {"right", "kills", "files", "tiles", "tiles computed again"}
    assert result["kills"] >= rounds and result["right"] == result["files"]
    assert result["files"] > (5 if rounds == 60 else 0)
    # tiles in flight at a kill: a batch that is computed, and up to two that are written
    assert result["tiles computed again"] <= 3 * 8 * result["kills"]


@pytest.mark.parametrize("rounds", marked(pytest.mark.system, [4, 60]))
def test_power_failures(rounds):
    assert experiment("crashes", rounds) == {"right": rounds}


def test_syncs_that_lose_data():
    result = experiment("writebacks", 1000)
    assert result["right"] == result["losses"] > 5


@pytest.mark.parametrize("rounds", CALLS)
def test_a_job_that_is_suspended_and_taken_over(rounds):
    result = experiment("takeovers", rounds)
    ends = result.pop("woken")
    assert result["right"] == sum(ends.values()) >= min(rounds, 40)


@pytest.mark.parametrize("rounds", CALLS)
def test_a_file_that_is_replaced_during_its_repair(rounds):
    assert experiment("repairs", rounds)["right"] >= min(rounds, 8)


@pytest.mark.parametrize("rounds", CALLS)
def test_data_that_changes(rounds):
    assert experiment("changes", rounds)["right"] >= min(rounds, 40)


@pytest.mark.parametrize("rounds", marked(pytest.mark.system, [5, 200]))
def test_parts_that_change_behind_a_link(rounds):
    result = experiment("links", rounds)
    assert result.keys() == {"right", "refused"} and sum(result.values()) == rounds


@pytest.mark.parametrize("rounds", CALLS)
def test_standard_streams_that_are_closed(rounds):
    result = experiment("streams", rounds)
    assert result["right"] > min(rounds - 1, 30)


@pytest.mark.parametrize("rounds", marked(pytest.mark.system, [25, 1000]))
def test_damage_of_finished_files(rounds):
    result = experiment("flips", rounds)
    assert result.keys() == {"reported", "untouched"} and result["reported"] > rounds / 2


@pytest.mark.parametrize("rounds", marked(pytest.mark.system, [10, 100]))
def test_damage_of_unfinished_files(rounds):
    result = experiment("unfinished", rounds)
    assert result.keys() == {"right", "refused"} and result["right"] > 0.3 * rounds


@pytest.mark.system
def test_every_call_of_a_factorisation_fails_or_is_the_last():
    result = experiment("factor_faults", 1000)
    points = result.pop("calls")
    assert len(points) == 2 and min(points.values()) > 25
    assert result == {"right": sum(points.values())}


@pytest.mark.system
def test_kills_of_a_factorisation_at_random_times():
    result = experiment("factor_kills", 12)
    assert result.keys() == {"right", "kills", "files", "tiles", "tiles computed again"}
    assert result["kills"] >= 12 and result["right"] == result["files"] > 1


@pytest.mark.system
@pytest.mark.parametrize(
    ("name", "rounds", "least"),
    [
        ("factor_crashes", 12, 12),
        ("factor_takeovers", 4, 4),
        ("factor_repairs", 6, 6),
        ("factor_changes", 8, 8),
    ],
)
def test_factors_that_are_disturbed(name, rounds, least):
    assert experiment(name, rounds)["right"] >= least


@pytest.mark.system
def test_damage_of_factors():
    result = experiment("factor_flips", 60)
    assert result.keys() == {"reported", "untouched"} and result["reported"] > 25
    result = experiment("factor_unfinished", 8)
    assert result.keys() == {"right", "refused"} and result["right"] > 1


@pytest.mark.system
@pytest.mark.parametrize(
    ("name", "rounds", "without"),
    [
        ("faults", 3, "lease.Lease.release = lambda self: None"),
        ("merges", 9, "lease.Lease.release = lambda self: None"),
        ("kills", 3, "lease.Lease.release = lambda self: None"),
        ("crashes", 40, "tiles.TileFile.sync = lambda self: None"),
        ("writebacks", 9, "tiles.TileFile.forget = lambda self: None"),
        ("flips", 40, "tiles.TileFile.scan = lambda *_: iter(())"),
        ("unfinished", 20, "tiles.TileFile.scan = lambda *_: iter(())"),
        ("factor_flips", 40, "tiles.TileFile.scan = lambda *_: iter(())"),
    ],
)
def test_an_experiment_notices_what_is_missing(name, rounds, without):
    code = (
        f"import sys; sys.path.insert(0, {str(BREAKING.parent)!r}); import breaking;"
        f"from ntk_numba.gramfile import lease, tiles; {without};"
        f"print(breaking.json.dumps(breaking.EXPERIMENTS[{name!r}]({rounds})))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert json.loads(answer.stdout)["examples"], answer.stderr
