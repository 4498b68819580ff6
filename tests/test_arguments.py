import numpy as np
import pytest

from ntk_numba.arguments import (
    kept_layers,
    listed,
    number_between,
    one_of,
    parse_bytes,
    parse_kernels,
    parse_layers,
    show_bytes,
    whole_number,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (5, 5),
        ("5", 5),
        ("2GiB", 2 << 30),
        ("2 gib", 2 << 30),
        ("1.5k", 1500),
        ("500MB", 500_000_000),
    ],
)
def test_parse_bytes(text, value):
    assert parse_bytes(text, "memory") == value


@pytest.mark.parametrize("text", ["", "two", "-1", 0, "0", "5 XB", "1GiBs", None, True, 1.5j, 1.5])
def test_parse_bytes_refuses(text):
    with pytest.raises(ValueError, match="memory must be"):
        parse_bytes(text, "memory")


@pytest.mark.parametrize("value", ["c", None, 3, ["a"], np.array(["a", "b"])])
def test_one_of(value):
    assert one_of("letter", np.str_("b"), ("a", "b")) == "b"
    with pytest.raises(ValueError, match="letter must be 'x', 'a' or 'b', not "):
        one_of("letter", value, ("x", "a", "b"))


def test_listed():
    assert listed("fit", "noise") == ["noise"] and listed("depths", np.arange(2)) == [0, 1]
    with pytest.raises(TypeError, match="depths must be a sequence, not 3"):
        listed("depths", 3)
    with pytest.raises(TypeError, match="kernels must be a sequence, not None"):
        parse_kernels(None)
    with pytest.raises(ValueError, match=r"kernels: array.* is none of nngp, ntk"):
        parse_kernels(np.array([["ntk", "nngp"]]))


def test_show_bytes():
    assert show_bytes(5) == "5 B"
    assert show_bytes(1536) == "1.5 KiB"
    assert show_bytes(28.8e9) == "26.8 GiB"
    assert show_bytes(5000 << 40) == "5000 TiB"


@pytest.mark.parametrize(
    ("layers", "kept"),
    [
        ("last", (5,)), ("all", (1, 2, 3, 4, 5)), ([5], (5,)), ((1, 4), (1, 4)),
        (range(2, 5), (2, 3, 4)), (np.array([2, 3]), (2, 3)),
    ],
)  # fmt: skip
def test_layers_that_are_kept(layers, kept):
    parsed = parse_layers(layers)
    assert kept_layers(parsed, 5) == kept and parse_layers(parsed) == parsed


@pytest.mark.parametrize(
    ("layers", "error", "text"),
    [
        ("first", ValueError, "'last', 'all' or a list of layers such as .3, 5., not 'first'"),
        (3, ValueError, "a list of layers"), (None, ValueError, "a list of layers"),
        ({3, 5}, ValueError, "a list of layers"), ([], ValueError, "layers is empty"),
        ([0, 1], ValueError, "layers must be at least 1, not 0"),
        ([2.0], TypeError, "layers must be a whole number"),
        (["3"], TypeError, "layers must be a whole number"),
        ([5, 3], ValueError, "increasing order, each once, not .5, 3.; give .3, 5."),
        ([3, 3], ValueError, "increasing order, each once"),
        ([3, 6], ValueError, "layers: there is no layer 6; the network has layers 1 to 5"),
    ],
)  # fmt: skip
def test_layers_that_are_refused(layers, error, text):
    with pytest.raises(error, match=text):
        kept_layers(parse_layers(layers), 5)


def test_numbers_are_checked():
    assert whole_number("n", np.int64(3)) == 3 and type(whole_number("n", 3)) is int
    assert number_between("p", np.float32(0.5), 0, 1) == 0.5
    for bad in (True, 1.0, "1", None):
        with pytest.raises(TypeError, match=r"n must be a whole number, not"):
            whole_number("n", bad)
    with pytest.raises(ValueError, match="n must be at least 2, not 1"):
        whole_number("n", 1, 2)
    for bad in (False, "0.5", None, [0.5], 1j):
        with pytest.raises(TypeError, match=r"p must be a number, not"):
            number_between("p", bad, 0, 1)
    for bad in (0, 1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="p must be more than 0 and less than 1, not"):
            number_between("p", bad, 0, 1)
    with pytest.raises(ValueError, match="p must be more than 0 and finite, not inf"):
        number_between("p", float("inf"), 0, float("inf"))
