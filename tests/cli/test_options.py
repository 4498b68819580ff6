"""All options of a job are repeated in the commands of a script for Slurm."""

import argparse
import shlex

import numpy as np
import pytest
from programs import own_process_kept

from ntk_numba.cli import options
from ntk_numba.cli import program as cli

# A value other than the default for every option that describes a job
JOB = {
    "data": "x.npy",
    "output": "a b.h5",
    "against": "z.npy",
    "depth": 3,
    "activation": ["abs", "-0.5*relu"],
    "w_std": [1.0, 1.5, 0.5],
    "b_std": [0.25],
    "kernel": ["nngp", "ntk"],
    "layers": "all",
    "dtype": "float32",
    "layout": "lower",
    "memory": "700MiB",
    "up_to": 12.5,
}


def job_parser():
    parser = argparse.ArgumentParser(add_help=False)
    options._job_options(parser, threads=False)
    return parser


def test_every_option_of_a_job_is_tried_here():
    """Add a new option to `JOB`: it has to be repeated like all others."""
    actions = {action.dest: action for action in job_parser()._actions}
    assert set(actions) == set(JOB)
    assert all(JOB[dest] != action.default for dest, action in actions.items())


def test_the_words_of_a_job_give_its_options_again():
    words = options.gram_words(argparse.Namespace(**JOB))
    assert words[:2] == ["ntk-numba", "gram"]
    assert vars(job_parser().parse_args(words[2:])) == JOB
    given = vars(options.make_parser().parse_args(words[1:]))
    assert JOB.items() <= given.items()


def test_defaults_are_left_out():
    words = ["x.npy", "-o", "g.h5", "--depth", "2"]
    given = job_parser().parse_args(words)
    assert options.gram_words(given) == ["ntk-numba", "gram", *words]
    assert options.gram_words(given, memory="1GiB")[-2:] == ["--memory", "1GiB"]


@pytest.mark.parametrize("way", ["link", "delete_parts"])
def test_the_words_of_a_merge_give_its_options_again(way):
    ways = {"link": False, "delete_parts": False} | {way: True}
    words = options.merge_words(argparse.Namespace(**JOB, **ways), "a b.part-*-of-3.h5")
    given = vars(options.make_parser().parse_args(words[1:]))
    assert given["parts"] == ["a b.part-*-of-3.h5"] and given["output"] == "a b.h5"
    assert given["layout"] == "lower" and ways.items() <= given.items()


def test_every_option_of_a_job_is_in_its_script(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.ones((150, 7)))
    np.save("z.npy", np.ones((20, 7)))
    # a matrix of two data sets has no triangle
    given = JOB | {"layout": "full", "activation": ["abs", "elu"]}
    words = options.gram_words(argparse.Namespace(**given))[2:]
    with own_process_kept(), pytest.raises(SystemExit) as end:
        cli.main(["slurm", *words, "--parts", "2", "--time", "20"])
    said = capsys.readouterr()
    assert end.value.code == 0, said.err
    line = next(line for line in said.out.splitlines() if " ntk-numba gram " in line)
    part = shlex.split(line)
    part = part[part.index("gram") :][:-2]  # the last two words contain variables of the shell
    found = vars(options.make_parser().parse_args(part))
    assert given.items() <= found.items() and found["part"] == "$SLURM_ARRAY_TASK_ID/2"
