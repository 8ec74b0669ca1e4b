import argparse
import tomllib
from dataclasses import asdict, dataclass

import pytest

from reasoning.errors import UserError
from reasoning.options import add_flags, from_mapping, option, to_toml


@dataclass(frozen=True, kw_only=True)
class Some:
    run: str = option(..., "folder")
    n: int = option(4, "chains")
    lr: float = option(0.5, "rate, 100% of it")
    stop: list[str] = option([], "stop strings")
    fast: bool = option(False, "be fast")
    clip: float | None = option(None, "clip")
    kind: str = option("a", "kind", choices=("a", "bee"))


def read(*arguments):
    parser = argparse.ArgumentParser()
    add_flags(parser, Some, ("run",))
    return from_mapping(Some, vars(parser.parse_args(arguments)), "some")


def test_flags_and_defaults():
    assert read("x") == Some(run="x")
    got = read("x", "-n", "2e3", "--lr", "1e-3", "--stop", "a", "--stop", "b", "--fast", "--clip", "0.2")
    assert got == Some(run="x", n=2000, lr=1e-3, stop=["a", "b"], fast=True, clip=0.2)


def test_help_survives_a_percent_sign(capsys):
    with pytest.raises(SystemExit):
        read("--help")
    assert "100% of it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"run": "x", "m": 1}, "Unknown key in some 'm'"),
        ({"run": "x", "n": 1.5}, "not a whole number"),
        ({"run": "x", "n": True}, "not a whole number"),
        ({"run": "x", "fast": "yes"}, "not a true or false"),
        ({"run": "x", "kind": "be"}, "Did you mean 'bee'"),
        ({}, "some needs --run: folder"),
        ({"run": 3}, "not a text"),
        ({"run": "a\0b"}, "holds a NUL character"),
    ],
)
def test_wrong_values_are_named(values, words):
    with pytest.raises(UserError, match=words):
        from_mapping(Some, values, "some")


def test_toml_round_trip():
    some = Some(run='a "quoted"\nline', n=3, lr=1e-20, stop=["é", "\\"], fast=True)
    text = to_toml({"versions": {"x": "1"}, "some": asdict(some)})
    assert from_mapping(Some, tomllib.loads(text)["some"], "some") == some


@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "1e400", "9" * 400, "9" * 5000, "1e19"])
def test_what_is_no_64_bit_whole_number_is_refused(text):
    with pytest.raises(SystemExit):
        read("x", "-n", text)
    with pytest.raises(UserError, match="is not a whole number") as error:
        from_mapping(Some, {"run": "x", "n": text}, "some")
    assert len(str(error.value)) < 150


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "-inf", "nan", "1e400"])
def test_floats_are_finite(value):
    with pytest.raises(UserError, match="is not a finite number"):
        from_mapping(Some, {"run": "x", "lr": value}, "some")


def test_whole_numbers_do_not_pass_through_floats():
    assert from_mapping(Some, {"run": "x", "n": 2**53 + 1}, "some").n == 2**53 + 1
    assert type(from_mapping(Some, {"run": "x", "lr": 1}, "some").lr) is float
    with pytest.raises(UserError, match="whole number"):
        from_mapping(Some, {"run": "x", "n": 10**5000}, "some")


@dataclass(frozen=True, kw_only=True)
class Bounded:
    n: int = option(4, "chains", low=1)
    share: float = option(0.5, "share", low=0, high=1)
    k: list[int] = option([], "ks", low=1)
    floor: int = option(-1, "at most", high=9)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n": 0}, r"^-n must be 1 or above, not 0\.$"),
        ({"share": 1.5}, r"^--share must be between 0 and 1, not 1\.5\.$"),
        ({"k": [4, 0]}, r"^-k must be 1 or above, not 0\.$"),
        ({"floor": 10}, r"^--floor must be 9 or below, not 10\.$"),
    ],
)
def test_bounds(values, words):
    with pytest.raises(UserError, match=words):
        from_mapping(Bounded, values, "some")
    assert from_mapping(Bounded, {"n": 1, "share": 1, "k": [1], "floor": 9}, "some").k == [1]
