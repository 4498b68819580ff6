"""Tables in text files, against the numbers that were written and against Python's own reading."""

import bz2
import csv
import gzip
import io
import lzma
import random

import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba import cli
from ntk_numba.inputs import tables
from ntk_numba.inputs.labels import read_labels
from ntk_numba.inputs.source import open_source

SPREAD = np.random.default_rng(1).uniform(-300, 300, (40, 3))
X = np.random.default_rng(0).standard_normal((40, 3)) * 10**SPREAD
LINES = [",".join(map(repr, row)) for row in X.tolist()]
NAMED = "a,b,label\n1,2,x\n3,4,y\n"


@pytest.fixture
def table(tmp_path):
    """Write a table, and return what is read from it."""

    def write(text, name="x.csv", key=""):
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / name).write_bytes(data)
        source = open_source(f"{tmp_path}/{name}{key}", "X")
        return source.read(0, source.shape[0]).tolist()

    return write


@pytest.mark.parametrize("header", [[], ["a,b,c"], ["größe,µ,d"], ['"x 1",x.2,"y,3"'], ["1st,b,c"]])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1"])
def test_every_number_is_the_nearest(table, header, end, encoding):
    assert table(end.join(header + LINES).encode(encoding)) == X.tolist()


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", " ", ", ", "  ", " ; "])
@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("header", ["", "a,b,c"])
def test_separators_are_found(table, separator, quote, header):
    lines = ([header] if header else []) + LINES
    text = "\n".join(
        separator.join(f"{quote}{cell}{quote}" for cell in line.split(",")) for line in lines
    )
    if quote and separator == " ; ":
        with pytest.raises(ValueError, match="quote is wrong"):
            table(text)
    else:
        assert table(text) == X.tolist()


def test_separators_are_given(table):
    assert table("1;2\n3;4", key=":separator=semicolon") == [[1, 2], [3, 4]]
    assert table("1\n2", name="x.tsv") == [[1], [2]]
    assert table("a b\tc\n1\t2", name="x.tsv") == [[1, 2]]
    with pytest.raises(ValueError, match="'1;2', which is no number"):
        table("1;2\n3;4", key=":separator=tab")
    with pytest.raises(ValueError, match=r"separator is comma or semicolon or .*, not 'x'"):
        table("1", key=":separator=x")


@pytest.mark.parametrize(
    ("name", "compress"),
    [("x.csv.gz", gzip.compress), ("x.tsv.bz2", bz2.compress), ("X.CSV.xz", lzma.compress)],
)
def test_compressed(table, tmp_path, name, compress):
    text = "\n".join(LINES).replace(",", "\t" if "tsv" in name else ",").encode()
    assert table(compress(text), name=name) == X.tolist()
    assert table(compress(text), name=name, key=":1") == X[:, 1:2].tolist()
    for damaged in (compress(text)[:-9], b"no such format", b""):
        with pytest.raises((ValueError, OSError), match=r"damaged or truncated|it has no rows"):
            table(damaged, name=name)
    with pytest.raises(ValueError, match="is compressed or of another format"):
        table(compress(text), name="x.csv")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,2\n3,4", [[1, 2], [3, 4]]),
        ("1,2,3\n4,5,6\n", [[1, 2, 3], [4, 5, 6]]),
        ("0,0\n0.5,1.5\n", [[0, 0], [0.5, 1.5]]),
        ("5,1.5\n6,2.5\n", [[5, 1.5], [6, 2.5]]),
        ("0,1,2", [[0, 1, 2]]),
        ("5", [[5]]),
        ("3\n1.5\n", [[3], [1.5]]),
        ("x\n1\n", [[1]]),
        ('"1","2"\n"3","4"', [[1, 2], [3, 4]]),
        ("True,false\nFALSE,1", [[1, 0], [0, 1]]),
        ("# a\n\n1,2\n \t \n  # b, \"\n3,4\n\n", [[1, 2], [3, 4]]),
        ("1,2,\n3,4,\n", [[1, 2], [3, 4]]),
        ("a,b,\n1,2,\n3,4,\n", [[1, 2], [3, 4]]),
        (" 1.5 ,\t2\n+3,-.4e-1\n", [[1.5, 2], [3, -0.04]]),
        ('"a\nb","c""d"\n1,2\n', [[1, 2]]),
        ("9007199254740993,18446744073709551617\n1,2", [[2.0**53, 2.0**64], [1, 2]]),
        ("1" * 300 + ",1e-400\n1,2", [[float("1" * 300), 0], [1, 2]]),
        ("name,\n3,4", [[3, 4]]),
        ("t,a\n0,5\n1,5\n2,5\n3,5\n4,5", [[0, 5], [1, 5], [2, 5], [3, 5], [4, 5]]),
        ("#a,b\n# 5 columns, 2 rows\n1,2\n#\n## c\n#-----\n3,4\n # end, of it", [[1, 2], [3, 4]]),
        ("1,2\r\r\n3,4\r\r\n", [[1, 2], [3, 4]]),
        ("5\n6\n\n\n", [[5], [6]]),
        ("Sample #1,b\n1,2\n", [[1, 2]]),
        ("0,1.5\n1,2.5", [[0, 1.5], [1, 2.5]]),
        ("0,5\n1,5\n2,5\n4,5\n3,5", [[0, 5], [1, 5], [2, 5], [4, 5], [3, 5]]),
    ],
)  # fmt: skip
def test_ordinary_tables(table, text, expected):
    assert table(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "0,1,2\n0.1,0.2,0.3\n",  # by pandas, without names
        "0,1,2\n5,3,7\n",
        "0\n5\n7\n",
        "0\n7.5\n",
        ",0,1\n0,0.5,0.25\n1,0.5,0.3\n",  # by pandas, with its index
        "1,2,3\n.5,.25,.1\n.5,.25,.1\n",
        "2019,2020,2021\n3,4,5\n",
        "land,2019,2020\nA,3,4\n",
        "400,410,420\n.1,.2,.3\n",
        "10,25,300\n.1,.2,.3\n",
        '"5","3"\n1,2\n',
        "label,1,2\n0,5,6\n",
        "a,?\n1,2\n",
        "1.5x,2.5x\n1,2\n",
    ],
)
def test_a_first_line_that_may_be_both_is_refused(table, text):
    """The message names two paths, of which one reads the line as names and the other does not."""
    with pytest.raises(ValueError, match=r"first line .*x.csv:header=yes or .*x.csv:header=no"):
        table(text)
    lines = text.splitlines()
    rest = [[float(c) for c in line.split(",")[1:]] for line in lines[1:] if "x" not in line]
    if len(lines[0].split(",")) > 1 and rest:
        assert table(text, key=":header=yes,!0:1") == rest
    if all(c.strip('"').isdigit() for c in lines[0].split(",")):
        first = [float(c.strip('"')) for c in lines[0].split(",")]
        assert table(text, key=":header=no")[0] == first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: it has no rows"),
        ("\n\n# a\n", "is empty: it has no rows"),
        ("a,b\n", "is empty: it has no rows"),
        ("1,2\n3,x\n", r"line 2, column 1 is 'x', which is no number; .*x.csv:!1"),
        ("# c\na,b\n\n3,x\n", r"line 4, column 1 \('b'\) is 'x'"),
        ("1,2\n3,4,5\n", "line 2 has another number of cells, 3, than the lines above it, 2"),
        ("1,2\n3\n", "line 2 has another number of cells, 1"),
        ("1,2,\n3,4,\n" + "5,6,\n" * 200 + "7,8,9\n", "line 203 has another number of cells"),
        ("?,?\n1,2\n", r"line 1, column 0 is missing \('\?'\)"),
        *((f"a,b\n1,2\n3,{word}\n", r"line 3, column 1 \('b'\) is missing")
          for word in ("", " ", "NA", "NaN", "?", "null", "-", "N/A", '""')),
        ("1,5;2,5\n3,5;4,5\n", "is '1,5', with a comma; write numbers with a decimal point"),
        ('a;b\n"1.234,5";3', "with a comma"),
        ('a,b\n"1,234",5\n', "with a comma"),
        ("a,b\n1_000,2\n", "is '1_000', which is no number"),
        ("a,b\n１,2\n", "which is no number"),
        ("a,b\n0x1F,2\n", "is '0x1F', which is no number"),
        ("a,b\n2020-01-01,2\n", "is '2020-01-01', which is no number"),
        ("a,b\n1,1e999\n", r"line 2, column 1 \('b'\) is infinite or too large"),
        ("a,b\n-inf,1\n", "is infinite or too large"),
        ('a,b\n1,"2\n3,4\n', "line 2: a quote is wrong or not closed"),
        ('a,b\n1,"2"3\n', "line 2: a quote is wrong"),
        ("a,b\n1,2# c\n", "a comment needs a line of its own, so delete what begins with #"),
        ("a,b\n1,2 # c\n", r"line 2, column 1 \('b'\) is '2 # c'; a comment needs a line"),
        ("1,2\n3,4\t#5", "line 2, column 1 is '4\\\\t#5'; a comment needs"),
        ("1 2\n1 2 # 3 4\n3 4", "line 2 has another number of cells, 5"),
        ("1,2\n#3,4\n5,6\n", r"line 2 is '#3,4', which may be a comment or a sample; delete the"),
        ("1,2\n# 3,4\n5,6\n", "line 2 is '# 3,4', which may be a comment or a sample"),
        ("#3,4\n5,6\n", "line 1 is '#3,4', which may be a comment or a sample"),
        ("#3;4\n5;6\n", "line 1 is '#3;4', which may be"),
        ("#3\n5\n", "line 1 is '#3', which may be"),
        ("1\n#N/A\n2\n", "line 2 is '#N/A', which may be a comment or a sample"),
        ("1\n#REF!\n2\n", "line 2 is '#REF!', which may be a comment or a sample"),
        ("#DIV/0!\n2\n", "line 1 is '#DIV/0!', which may be"),
        ("a,b\n#x,4\n5,6\n", "line 2 is '#x,4', which may be"),
        ("a,b\n1,2\n# mean,4\n5,6\n", "line 3 is '# mean,4', which may be"),
        ("1\n\n2\n", "line 2 is empty, which may be a missing value"),
        ("x\n1\n \n2\n", "line 3 is empty, which may be a missing value"),
        ("a,b\n\x1c1,2\n", "is '\\\\x1c1', which is no number"),
        ("a,b\n1,2\u2028\n", "is '2\\\\u2028', which is no number"),
        ("a,b\n1,2\n\ufeff3,4\n", "line 3, column 0 .* which is no number"),
        ("1,2\n3,4\n\0\0\0", "is no text file"),
        ("a,b\n1,# c\n", "a comment needs a line of its own"),
        ('a,b\n1,"2 # c"\n', "a comment needs a line of its own"),
        (",a\n0,1\n", r"column 0 \(''\) looks like an index .*x.csv:!0, or .*x.csv:0:"),
        ("Unnamed: 0,a\n0,1\n", "looks like an index"),
        ("0,.1\n1,.2\n2,.3\n3,.4\n4,.5", r"column 0 looks like an index .*x.csv:!0, or .*:0:"),
        ("0,.1\n1,.2\n2,.3\n", "column 0 looks like an index"),
        ("1,4\n2,3\n3,2\n4,1\n5,0\n", "column 0 looks like an index"),
        ("a,b\nx,1,2\n", "3, than the lines above it, 2; if each line begins with the name of its"),
        ("a,b,\n1,2\n", "line 2 has another number of cells, 2"),
        (b"\xff\xfe\x80", "is no text file"),
        (b"1,2\n\x00,3", "is no text file, or UTF-16"),
    ],
)  # fmt: skip
def test_refusals_name_line_and_column(table, text, message):
    with pytest.raises(ValueError, match=message):
        table(text)


def test_a_bad_cell_is_named_far_down(table):
    lines = [*LINES * 300]
    lines[9000] = "1,nan,2"
    with pytest.raises(ValueError, match=r"line 9001, column 1 is missing \(nan\)"):
        table("\n".join(lines))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (":a,b", [[1, 2], [3, 4]]),
        (":b,a", [[2, 1], [4, 3]]),
        (":!label", [[1, 2], [3, 4]]),
        (":!2", [[1, 2], [3, 4]]),
        (":!-1", [[1, 2], [3, 4]]),
        (":1", [[2], [4]]),
        (":0:2", [[1, 2], [3, 4]]),
        (":!1:", [[1], [3]]),
        (':"b"', [[2], [4]]),
        (":header=yes,0", [[1], [3]]),
    ],
)
def test_columns_are_chosen(table, key, expected):
    assert table(NAMED, key=key) == expected


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        (NAMED, "", r"line 2, column 2 \('label'\) is 'x', .*x.csv:!2"),
        (NAMED, ":c", "has no column 'c'; its columns are a, b, label"),
        (NAMED, ":3", "has no column 3; it has 3, counted from 0"),
        (NAMED, ":a,!b", "not both"),
        (NAMED, ":a,0", "takes a column twice"),
        (NAMED, ":!0:", "leaves out all columns"),
        (NAMED, ":a,,b", "a column's name is empty"),
        (NAMED, ':"a', "has one quote"),
        (NAMED, ":header=maybe", "header is yes or no, not 'maybe'"),
        ("a,a\n1,2\n", ":a", "has several columns 'a': give the number, one of 0, 1"),
        ("b,0\n1,2\n", ":header=yes,0", "is the number of one column and the name of another"),
        ("1,2\n3,4\n", ":header=no,a", "has no column 'a'; its columns have no names"),
        (",a,b\n0,1,2\n", ":!b", r"looks like an index .*x.csv:!b,!0"),
    ],
)
def test_columns_that_are_refused(table, text, key, message):
    with pytest.raises(ValueError, match=message):
        table(text, key=key)


def test_names_and_numbers_of_columns(table):
    numbers = "1,0\n5,6\n"
    assert table(numbers, key=':"1"') == table(numbers, key=":header=yes,0:1") == [[5]]
    assert table("header=no,b\n5,6\n", key=':"header=no"') == [[5]]
    assert table('"p,q",b:c\n5,6\n', key=':b:c,"p,q"') == [[6, 5]]
    assert table("größe,b\n5,6\n".encode("latin-1"), key=":größe") == [[5]]
    assert table(",a\n7,1\n", key=":0:") == [[7, 1]]


def test_a_file_with_a_colon_in_its_name(table):
    assert table(NAMED, name="a:b.csv", key=":a") == [[1], [3]]
    assert table("1,2", name="a.csv:b.csv") == [[1, 2]]


def test_labels_are_a_column(table, tmp_path):
    table("x,label\n1,5\n2,6\n")
    assert read_labels(f"{tmp_path}/x.csv:label", 2).tolist() == [5, 6]


def test_a_file_that_changes_while_it_is_read(table, tmp_path, monkeypatch):
    original = tables.find_separator

    def append(lines, **options):
        with (tmp_path / "x.csv").open("a") as file:
            file.write("5,6\n")
        return original(lines, **options)

    monkeypatch.setattr(tables, "find_separator", append)
    with pytest.raises(OSError, match="has changed while it was read"):
        table("1,2\n3,4\n")


def test_a_table_larger_than_memory(table, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK", 10)
    monkeypatch.setattr(tables.machine, "available_memory", lambda: 1000)
    with pytest.raises(ValueError, match=r"does not fit into memory, .*convert it to .npy"):
        table("\n".join(LINES * 300))


@pytest.mark.parametrize(
    "text",
    ["1,2\n" * 5000, "1," * 5000 + "1", "# c\n" * 200_000 + "1,2\n", '"' + "a\n" * 5000 + '",2\n'],
)
def test_a_table_larger_than_the_limit(tmp_path, text):
    """Rows, lines and comments are counted as they are read, also of what takes few bytes."""
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    with pytest.raises(ValueError, match=r"does not fit into memory|100,000 comments|a quote is"):
        open_source(path, "X", 60_000)


@pytest.mark.parametrize("rows", [0, 1, 200])
@pytest.mark.parametrize("start", ["# ", "#", ""])
def test_the_end_of_a_long_line_is_no_line(tmp_path, rows, start):
    """Lines are read in pieces, and the second piece of a comment may look like a sample."""
    most = 1 << 20
    for over in range(-2, 3):
        filler = " " if start == "" else "x"
        line = start + filler * (most // tables.LINE_MEMORY + over - len(start)) + "3,4\n"
        (tmp_path / "x.csv").write_text("1,2\n" * rows + line + "5,6\n")
        with pytest.raises(ValueError, match="does not fit into memory"):
            open_source(tmp_path / "x.csv", "X", most)


@pytest.mark.parametrize(("ending", "pack"), [(".bz2", bz2.compress), (".xz", lzma.compress),
                                              (".gz", gzip.compress)])  # fmt: skip
def test_packed_tables_of_several_streams(tmp_path, ending, pack):
    """What stands behind a stream is another one; if it is damaged, its rows are not dropped."""
    path, two = tmp_path / f"x.csv{ending}", pack(b"1,2\n") + pack(b"3,4\n")
    path.write_bytes(two)
    assert open_source(path, "X").read(0, 2).tolist() == [[1, 2], [3, 4]]
    whole = len(pack(b"1,2\n"))
    for spoilt in (two[:-5], two[:whole] + b"?" + two[whole + 1 :], two + b"5,6\n"):
        path.write_bytes(spoilt)
        with pytest.raises(ValueError, match="is damaged or truncated"):
            open_source(path, "X")


def main(words):
    """Return the exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    return ended.value.code or 0


def test_commands_take_columns(tmp_path, capsys):
    rows = np.random.default_rng(0).standard_normal((600, 2))
    text = "\n".join(f"{a!r},{b!r},cat" for a, b in rows.tolist())
    (tmp_path / "x.csv").write_text("a,b,kind\n" + text)
    path, out = f"{tmp_path}/x.csv:!kind", f"{tmp_path}/gram.h5"
    assert main(["plan", path, "-o", out, "--depth", "2"]) == 0
    assert main(["gram", path, "-o", out, "--depth", "2", "--quiet"]) == 0
    assert main(["verify", out, "--data", path]) == 0
    assert main(["verify", out, "--data", f"{tmp_path}/x.csv:b,a"]) == 4
    np.save(tmp_path / "x.npy", rows)
    assert main(["verify", out, "--data", f"{tmp_path}/x.npy"]) == 0  # the digest is of the values
    capsys.readouterr()
    assert (
        main(
            [
                "slurm",
                path,
                "-o",
                f"{tmp_path}/o.h5",
                "--depth",
                "2",
                "--parts",
                "2",
                "--time",
                "20",
            ]
        )
        == 0
    )
    assert f"'{path}'" in capsys.readouterr().out
    for part in ("1/2", "2/2"):
        words = ["-o", f"{tmp_path}/p.h5", "--depth", "2", "--part", part, "--quiet"]
        assert main(["gram", path, *words]) == 0
    assert main(["plan", f"{tmp_path}/x.csv", "-o", out, "--depth", "2"]) == 2
    assert "line 2, column 2 ('kind') is 'cat'" in capsys.readouterr().err
    expected = nk.gram(nk.MLP(2), rows).ntk
    assert (nk.gram(nk.MLP(2), path).ntk == expected).all()


TOKENS = [b",", b";", b"\t", b" ", b"|", b'"', b"#", b"\n", b"\r", b"\0", b"1", b".", b"-", b"e"]
TOKENS += [
    b"_",
    b"nan",
    b"inf",
    b"NA",
    b"\xff",
    b"True",
    b'""',
    b"1e999",
    b"0x1",
    b"\x1c",
    "１".encode(),
]


def mutated(chance):
    """Return a small table with up to four changes of its bytes."""
    separator, form = chance.choice(",;\t| "), chance.choice(["%.17g", "%d", "%.2f", '"%d"'])
    width = chance.randint(1, 3)
    rows = [[form % chance.gauss(0, 30) for _ in range(width)] for _ in range(chance.randint(1, 5))]
    if chance.random() < 0.4:
        rows.insert(0, [chance.choice(["a", "b x", "0", "1", '"c"', ""]) for _ in range(width)])
    end = chance.choice(["\n", "\r\n"])
    data = bytearray(end.join(separator.join(row) for row in rows).encode())
    for _ in range(chance.randint(0, 4)):
        at = chance.randint(0, len(data))
        data[at : at + chance.choice([0, 0, 1, 2])] = chance.choice(TOKENS)
    return bytes(data)


def readings(data):
    """Return all matrices that the standard library and `float` may find in a text."""
    words = {"true": 1.0, "false": 0.0}
    lines = [
        line
        for line in io.StringIO(data.decode("utf-8", "replace"), newline="")
        if line.strip() and line.lstrip()[0] != "#"
    ]
    found = []
    for separator in ",;\t| ":
        text = [f"{line.strip()}\n" for line in lines] if separator == " " else lines
        try:
            rows = list(csv.reader(text, delimiter=separator, skipinitialspace=True, strict=True))
        except csv.Error:
            continue
        for header in (0, 1):
            for cut in (None, -1):
                cells = [[cell.strip().lower() for cell in row[:cut]] for row in rows[header:]]
                if cut and any(row[-1].strip() for row in rows[header:]):
                    continue
                try:
                    matrix = [[words[c] if c in words else float(c) for c in row] for row in cells]
                except ValueError:
                    continue
                found.append((header, rows[0], matrix))
    return found


def is_number(cell):
    try:
        return bool(float(cell)) or True
    except ValueError:
        return False


def test_damaged_tables_are_refused_or_read_right(table):
    chance, read = random.Random(0), 0
    for _ in range(600):
        data = mutated(chance)
        try:
            matrix = table(data)
        except nk.NtkNumbaError:
            continue
        read += 1
        right = [(header, first) for header, first, m in readings(data) if m == matrix]
        assert right, data
        # a first line is passed over only if it has no number
        assert not all(header for header, _ in right) or not any(map(is_number, right[0][1])), data
    assert read > 60
