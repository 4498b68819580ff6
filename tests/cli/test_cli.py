"""The command line as a user calls it, in processes of its own or in the process of the tests."""

import json
import subprocess
import sys

import numpy as np
import pytest
from programs import own_process_kept

import ntk_numba as nk
from ntk_numba.cli import program as cli
from ntk_numba.compiled.processor import processor


def without_notice(text: str) -> str:
    """Return standard error without the notice of compiling, which depends on the cache."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("ntk-numba: compiling"))


@pytest.fixture
def folder(tmp_path, points):
    np.save(tmp_path / "x.npy", points)
    np.save(tmp_path / "z.npy", points[:20] + 1)
    np.save(tmp_path / "y.npy", np.arange(150) % 2)
    return tmp_path


@pytest.fixture
def start(folder):
    """Start the command in a process of its own, as a user does."""

    def start(*arguments: str, code: int = 0) -> subprocess.CompletedProcess:
        answer = subprocess.run(
            [sys.executable, "-m", "ntk_numba", *arguments],
            cwd=folder, capture_output=True, text=True,
        )  # fmt: skip
        assert answer.returncode == code, answer.stderr
        assert "Traceback" not in answer.stderr
        answer.stderr = without_notice(answer.stderr)
        return answer

    return start


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Run the command in this process."""
    monkeypatch.chdir(folder)

    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess:
        capsys.readouterr()
        with own_process_kept(), pytest.raises(SystemExit) as end:
            cli.main(arguments)
        answer = subprocess.CompletedProcess(arguments, end.value.code or 0, *capsys.readouterr())
        assert answer.returncode == code, answer.stderr
        answer.stderr = without_notice(answer.stderr)
        return answer

    return run


GRAM = ("gram", "x.npy", "--depth", "3", "--b-std", "0.1", "-o", "g.h5")


def test_from_data_to_picture(start, run, tmp_path, points):
    answer = start(*GRAM, "--kernel", "ntk", "--kernel", "nngp")
    assert answer.stdout == "g.h5: nngp, ntk, 150 × 150, float64\n" and answer.stderr == ""
    k = nk.gram(nk.MLP(3, b_std=0.1), points)
    with nk.open_gram(tmp_path / "g.h5") as f:
        assert (f.ntk[:] == k.ntk).all()
    assert "150 × 150" in run("info", "g.h5").stdout
    facts = json.loads(run("info", "g.h5", "--json").stdout)
    assert facts["complete"] and facts["kernels"] == ["nngp", "ntk"] and facts["net"]["depth"] == 3
    assert facts["package_version"] == nk.__version__ and facts["processor"] == processor()
    verified = run("verify", "g.h5", "--data", "x.npy").stdout
    assert verified.count("ok ") == 5 and "WRONG" not in verified
    start("plot", "g.h5", "-o", "g.png", "--labels", "y.npy", "--scale", "normalized")
    assert (tmp_path / "g.png").stat().st_size > 10_000


def test_all_options(run, tmp_path, points):
    run(
        "gram", "x.npy", "-o", "g.h5", "--against", "z.npy", "--depth", "3",
        "--activation", "abs", "--activation", "leaky_relu:0.1", "--w-std", "1", "--w-std", "1.5",
        "--w-std", "0.5", "--b-std", "0.2", "--layers", "all", "--dtype", "float32",
        "--memory", "300MiB", "--threads", "1", "--quiet",
    )  # fmt: skip
    net = nk.MLP(3, ["abs", "leaky_relu:0.1"], [1, 1.5, 0.5], 0.2)
    k = nk.gram(net, points, points[:20] + 1, layers="all", dtype="float32")
    with nk.open_gram(tmp_path / "g.h5") as f:
        assert f.net == net and (f.ntk[:] == k.ntk).all()
    run("verify", "g.h5", "--data", "x.npy", "--against", "z.npy")
    assert "(3, 150, 20)" in run("verify", "g.h5").stdout


def test_progress_only_on_a_terminal_or_when_asked(run):
    assert "tile" in run(*GRAM, "--progress").stderr
    assert run(*GRAM, "--overwrite").stderr == ""


def test_plan_computes_nothing(run, tmp_path):
    before = sorted(tmp_path.iterdir())
    text = run("plan", *GRAM[1:], "--memory", "1GiB").stdout
    for word in (
        "150 × 150 symmetric",
        "7 features",
        "6 of 64 × 64",
        "288 KiB of",
        "1 GiB allowed",
        "product  of ntk with 10 columns: ",
        " is faster: ",
        "cholesky ",
    ):
        assert word in text
    facts = json.loads(run("plan", *GRAM[1:], "--json").stdout)
    assert facts["file_bytes"] == 192 * 192 * 8 and facts["tiles"] == 6
    assert 0 < facts["seconds_compute"] < 60 and 0 < facts["seconds_write"] < 60
    assert facts["product_columns"] == 10 and facts["disk_bytes_per_second"] > 0
    for name in ("product_seconds_computing", "product_seconds_reading", "cholesky_seconds"):
        assert 0 < facts[name] < 60
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("command", [["gram"], ["plan"]])
def test_a_job_that_cannot_fit_is_refused(run, command):
    answer = run(*command, *GRAM[1:], "--memory", "2MiB", code=2)
    assert answer.stderr.startswith(
        "ntk-numba: memory=2 MiB is too little: this job takes at least"
    )


def test_plan_refuses_what_the_disk_cannot_hold(monkeypatch, tmp_path, points, capsys):
    import shutil

    usage = shutil.disk_usage(tmp_path)._replace(free=999)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    np.save(tmp_path / "x.npy", points)
    with own_process_kept(), pytest.raises(SystemExit) as end:
        cli.main(["plan", f"{tmp_path}/x.npy", "-o", f"{tmp_path}/g.h5", "--depth", "2"])
    assert end.value.code == 2
    assert "takes 288 KiB, and its disk has 999 B free" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["gram", "none.npy", "--depth", "2", "-o", "g.h5"], "none.npy does not exist"),
        (["gram", "x.npy", "--depth", "0", "-o", "g.h5"], "depth must be at least 1"),
        (["gram", "x.npy", "--depth", "2.5", "-o", "g.h5"], "invalid int value: '2.5'"),
        (["gram", "x.npy", "--depth", "2", "--b-std", "-1", "-o", "g.h5"], "b_std of layer 1"),
        (["gram", "x.npy", "--depth", "2", "--w-std", "nan", "-o", "g.h5"], "w_std of layer 1"),
        (["gram", "x.npy", "--depth", "2", "--activation", "rleu", "-o", "g.h5"], "mean 'relu'"),
        (["gram", "x.npy", "--depth", "2", "-o", "none/g.h5"], "none does not exist; create it"),
        (["gram", "x.npy", "--depth", "2", "-o", "."], "is a folder"),
        (["gram", "x.npy", "--depth", "2", "-o", ""], "(the path is empty, or '.')"),
        (["gram", "", "--depth", "2", "-o", "g.h5"], "(the path is empty, or '.')"),
        (["info", ""], "(the path is empty, or '.')"),
        (["merge", "", "-o", "g.h5"], "(the path is empty, or '.')"),
        (["gram", "x.csv.zst", "--depth", "2", "-o", "g.h5"], "x.csv.zst does not exist"),
        (["gram", "x.npy", "--depth", "2", "-o", "x.npy", "--overwrite"], "is the data itself"),
        (["gram", "x.npy", "--depth", "2", "-o", "y.npy"], "no valid HDF5 file"),
        (["gram", "x.npy", "--depth", "2", "-o", "g.h5", "--memory", "much"], "2GiB or 500MB"),
        (["gram", "x.npy", "--depth", "2"], "required: -o"),
        (["info", "none.h5"], "none.h5 does not exist"),
        (["verify", "x.npy"], "no valid HDF5 file"),
        (["plot", "none.h5", "-o", "p.png"], "none.h5 does not exist"),
        (["plot", "none.h5", "-o", "none/p.png"], "none does not exist; create it"),
        (["dance"], "invalid choice: 'dance'"),
        ([], "required: command"),
    ],
)
def test_mistakes_get_one_clear_line(run, tmp_path, arguments, text):
    before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    answer = run(*arguments, code=2)
    assert text in answer.stderr.splitlines()[-1] and answer.stdout == ""
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


def test_plan_refuses_longer_rows_as_gram_does(run):
    words = ["x.npy", "-o", "g.h5", "--depth", "2", "--activation", "tanh", "--up-to", "0.1"]
    for command in ("plan", "gram"):
        answer = run(command, *words, code=2)
        assert "more than up_to=0.1" in answer.stderr and len(answer.stderr.splitlines()) == 1
        assert (command == "plan") == ("samples" in answer.stdout)


def test_warnings_are_one_line(start, folder, points):
    import h5py

    with h5py.File(folder / "m.h5", "w") as file:
        file["x"] = points.T
        file["x"].attrs["MATLAB_class"] = np.bytes_("double")
    answer = start("plan", "m.h5", "-o", "g.h5", "--depth", "2")
    assert answer.stderr.startswith("ntk-numba: warning: m.h5:x was written by MATLAB")
    assert len(answer.stderr.splitlines()) == 1


def test_a_mistake_of_a_process(start):
    answer = start("gram", "none.npy", "--depth", "2", "-o", "g.h5", code=2)
    assert answer.stderr == "ntk-numba: none.npy does not exist\n" and answer.stdout == ""


def test_verify_fails_with_its_own_code(run, tmp_path):
    import h5py

    run(*GRAM)
    with h5py.File(tmp_path / "g.h5", "r+") as file:
        file["ntk"][5, 6] += 1e-3
    answer = run("verify", "g.h5", code=4)
    assert answer.stdout == "WRONG  ntk: tile (0, 0) does not match its checksum\n"
    answer = run("verify", "g.h5", "--repair", code=2)
    assert "give it their data with --data" in answer.stderr
    answer = run("verify", "g.h5", "--repair", "--data", "z.npy", code=2)
    assert "z.npy is not the data that the file was made of" in answer.stderr
    answer = run("verify", "g.h5", "--repair", "--data", "x.npy")
    assert answer.stdout.splitlines()[:2] == [
        "WRONG  ntk: tile (0, 0) does not match its checksum", "ok     1 tiles computed again"
    ]  # fmt: skip
    assert "WRONG" not in run("verify", "g.h5", "--repair", "--data", "x.npy").stdout
    assert "z.npy is not the data" in run("verify", "g.h5", "--data", "z.npy", code=4).stdout


CHECK = ("check", "x.npy", "--depth", "3", "--b-std", "0.1", "--width", "64", "--draws", "16")


def test_check(run, tmp_path):
    answer = run(*CHECK, "--samples", "6", "--outputs", "2", "--plot", "p.png", "--seed", "3")
    assert answer.stdout.splitlines()[-1].startswith("PASS") and answer.stderr == ""
    assert answer.stdout.count("pass\n") == 16 and "FAIL" not in answer.stdout
    assert (tmp_path / "p.png").stat().st_size > 10_000
    facts = json.loads(run(*CHECK, "--samples", "6", "--outputs", "2", "--json").stdout)
    assert facts["passed"] and facts["widths"] == [16, 32, 64] and len(facts["claims"]) == 16


def test_check_fails_with_its_own_code(run):
    """The check fails by a false alarm, whose probability is set to nearly 1."""
    answer = run(*CHECK, "--samples", "6", "--false-alarm", "0.9999", code=4)
    assert answer.stdout.splitlines()[-1].startswith("FAIL") and "FAIL\n" in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["check", "none.npy", "--depth", "3"], "none.npy does not exist"),
        ([*CHECK, "--width", "8"], "width must be at least 32, not 8"),
        ([*CHECK, "--width", "3000000"], "would take"),
        ([*CHECK, "--draws", "1"], "draws must be at least 8, not 1"),
        ([*CHECK, "--false-alarm", "2"], "false_alarm must be more than 0 and less than 1"),
        ([*CHECK, "--seed", "-1"], "seed must be at least 0"),
        ([*CHECK, "--plot", "none/p.png"], "none does not exist; create it"),
        ([*CHECK, "--plot", "p.txt"], "p.txt: its ending must be one of"),
    ],
)
def test_mistakes_of_check(run, arguments, text):
    answer = run(*arguments, code=2)
    assert text in answer.stderr.splitlines()[-1] and answer.stdout == ""


def test_help_and_version(run):
    for command in ([], ["gram"], ["plan"], ["info"], ["verify"], ["plot"], ["check"]):
        assert run(*command, "--help").stdout.startswith("usage: ntk-numba")
    assert run("--version").stdout == f"ntk-numba {nk.__version__}\n"


def test_help_does_not_load_the_compiler():
    code = (
        "import sys; from ntk_numba import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'numba', 'numpy', 'h5py'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_parts_and_their_merge(run, tmp_path):
    run(*GRAM)
    right = (tmp_path / "g.h5").read_bytes()
    (tmp_path / "g.h5").unlink()
    for i in (1, 2, 3):
        answer = run(*GRAM, "--part", f"{i}/3")
        assert answer.stdout == f"g.part-{i}-of-3.h5: ntk, 150 × 150, float64, part {i}/3\n"
    parts = [f"g.part-{i}-of-3.h5" for i in (1, 2, 3)]
    info = json.loads(run("info", parts[1], "--json").stdout)
    assert (info["layout"], info["part"], info["tiles"], info["tiles_done"]) == (
        "part",
        "2/3",
        2,
        2,
    )
    assert run("verify", parts[1], "--data", "x.npy").stdout.count("ok ") == 4
    said = run("plot", parts[1], "-o", "g.png", code=2).stderr
    assert "is not done yet or belongs to another part" in said
    said = run("merge", *parts[::2], "-o", "g.h5", code=2).stderr
    assert "of 3 parts 2 are missing. Compute them again" in said and "--array=2," in said
    lower = run("merge", *parts, "-o", "l.h5", "--layout", "lower").stdout
    assert lower == "l.h5: ntk, 150 × 150, float64, lower\n"
    run("merge", *parts, "-o", "v.h5", "--link")
    for name in ("l.h5", "v.h5"):
        assert run("verify", name, "--data", "x.npy").stdout.count("ok ") >= 3
        run("plot", name, "-o", name + ".png", "--labels", "y.npy")
    (tmp_path / "v.h5").unlink()
    run("merge", *parts, "-o", "g.h5", "--delete-parts")
    assert (tmp_path / "g.h5").read_bytes() == right
    assert not list(tmp_path.glob("*part*"))
    run(*GRAM[:-1], "other.h5", "--parts", "3")
    assert (tmp_path / "other.h5").read_bytes() == right
    assert not list(tmp_path.glob("*part*"))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((*GRAM, "--part", "3"), "part must be like 3/8, the third of eight, not '3'"),
        ((*GRAM, "--part", "0/3"), "must be at least 1"),
        ((*GRAM, "--part", "4/3"), "part must be one of 1/3 to 3/3, not 4/3"),
        (
            (*GRAM, "--part", "1/99"),
            "part=1/99: there are 6 tiles, so at most 6 parts are possible",
        ),
        ((*GRAM, "--part", "1/3", "--parts", "3"), "part computes one part, parts and executor"),
        ((*GRAM, "--part", "1/3", "--layout", "lower"), "when parts are merged"),
        ((*GRAM, "--parts", "7"), "there are 6 tiles, so at most 6 parts are possible"),
        ((*GRAM, "--executor", "loky"), "say how many, as --parts 16"),
        ((*GRAM, "--parts", "2", "--executor", "cloud"), "--executor 'cloud' is unknown; take"),
        ((*GRAM, "--layout", "lower", "--against", "z.npy"), "two data sets has no triangle"),
        (("merge", "none-*.h5", "-o", "g.h5"), "none of the parts exists"),
        (("merge", "x.npy", "-o", "g.h5"), "x.npy is no valid HDF5 file"),
    ],
)
def test_mistakes_with_parts(run, tmp_path, arguments, text):
    before = sorted(p.name for p in tmp_path.iterdir())
    said = run(*arguments, code=2).stderr
    assert text in said and said.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_script_for_slurm(run, tmp_path):
    """All options reach the script; tests/cluster/test_slurm.py runs such a script."""
    text = run(
        "slurm", "x.npy", "-o", "a b.h5", "--depth", "3", "--activation", "abs", "--b-std", "0.1",
        "--kernel", "nngp", "--layers", "all", "--dtype", "float32", "--memory", "700MiB",
        "--layout", "lower", "--delete-parts", "--parts", "4", "--cpus", "3", "--time", "77",
        "--name", "mine", "--partition", "long", "--account", "me", "--qos", "low", "--grace", "60",
        "--requeues", "5", "--at-once", "2", "--logs", "said", "--dependency", "afterok",
        "--sbatch=--mail-type=END", "--setup", "module load python", "--merge-cpus", "4",
        "--merge-memory", "3GiB", "--merge-time", "99",
    ).stdout  # fmt: skip
    for words in (
        "ntk-numba gram x.npy -o 'a b.h5' --depth 3 --activation abs --b-std 0.1 --kernel nngp "
        "--layers all --dtype float32 --memory 700MiB --threads 3 --part $SLURM_ARRAY_TASK_ID/4",
        "ntk-numba merge 'a b'.part-*-of-4.h5 -o 'a b.h5' --layout lower --delete-parts",
        "--cpus-per-task=3", "--cpus-per-task=4", "--time=77", "--time=99", "--job-name=mine",
        "--partition=long", "--account=me", "--qos=low", "USR1@60", "-lt 5", "%2", "said/",
        "afterok", "--mail-type=END", "module load python", "--mem=875M", "--mem=3072M",
    ):  # fmt: skip
        assert words in text
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    text = run("slurm", "x.npy", "-o", "g.h5", "--depth", "3").stdout  # with all defaults
    assert "--part $SLURM_ARRAY_TASK_ID/1 " in text and "--time=15" in text
    said = run("slurm", "x.npy", "-o", "g.h5", "--depth", "3", "--parts", "2000", code=2).stderr
    assert "2000" in said
    for option in ("--parts", "--cpus", "--time", "--merge-time"):
        said = run("slurm", "x.npy", "-o", "g.h5", "--depth", "3", option, "0", code=2).stderr
        assert said == f"ntk-numba: {option} must be at least 1, not 0\n"


@pytest.mark.slow
def test_activations(run, tmp_path):
    table = run("activations").stdout.splitlines()
    assert table[0].split() == ["name", "parameters", "σ(x)", "dual", "domain", "Θ"]
    assert [line.split()[0] for line in table[1:]] == nk.activations.names()
    (facts,) = json.loads(run("activations", "tanh:1e-8", "--json").stdout)
    assert facts["name"] == "tanh:1e-8" and facts["dual"] == "Hermite series"
    run("activations", "relu", "2*gelu", "--plot", "a.png", "--q", "2")
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert "did you mean 'gelu'" in run("activations", "gleu", code=2).stderr
    assert "q1 and q2" in run("activations", "relu", "--plot", "b.png", "--q", "-1", code=2).stderr
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize("extra", [(), ("--dtype", "float32"), ("--layout", "lower"),
                                   ("--against", "z.npy"), ("--json",)])  # fmt: skip
def test_a_refused_plan_prints_its_numbers_and_the_right_mends(run, monkeypatch, tmp_path, extra):
    import shutil

    usage = shutil.disk_usage(tmp_path)._replace(free=999)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    answer = run("plan", *GRAM[1:], *extra, code=2)
    assert ("file_bytes" if "--json" in extra else "disk ") in answer.stdout
    (line,) = answer.stderr.splitlines()
    assert ("use float32" in line) == ("float32" not in extra)
    assert ("layout 'lower'" in line) == (not {"lower", "z.npy"} & set(extra))


def test_wrong_usage_of_verify_is_no_failed_check(run):
    run(*GRAM)
    run(*GRAM[:-1], "k.h5", "--against", "z.npy")
    for words, text in (
        (("k.h5", "--data", "x.npy"), "give Z as well (--against)"),
        (("k.h5", "--data", "x.npy", "--repair"), "give Z as well (--against)"),
        (("g.h5", "--data", "x.npy", "--against", "z.npy"), "but Z is given (--against)"),
        (("k.h5", "--against", "z.npy"), "give the first with --data"),
        (("g.h5", "--data", "none.npy"), "none.npy does not exist"),
    ):
        answer = run("verify", *words, code=2)
        assert text in answer.stderr and "WRONG" not in answer.stdout
    run("verify", "k.h5", "--data", "x.npy", "--against", "z.npy")


DEEP = ("x.npy", "-o", "g.h5", "--depth", "160", "--dtype", "float32")


@pytest.mark.parametrize("command", ["gram", "plan"])
def test_underflow_is_said(run, monkeypatch, command):
    monkeypatch.setattr(cli, "_shown", set())
    (line,) = run(command, *DEEP).stderr.splitlines()
    assert line.startswith("ntk-numba: warning: x.npy: ") and "below the range of float32" in line
    if command == "plan":
        assert run(command, *DEEP[:-1], "float64").stderr == ""
        assert run(command, *DEEP, "--w-std", "1.5").stderr == ""


def test_verify_says_underflow_too(run, monkeypatch):
    run("gram", *DEEP)
    monkeypatch.setattr(cli, "_shown", set())
    assert "below the range of float32" in run("verify", "g.h5", "--data", "x.npy").stderr
