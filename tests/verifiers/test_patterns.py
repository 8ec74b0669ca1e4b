# ruff: noqa: E501
import json

import pytest

from verifiers import Attempt, VerifierError, open_verifier


def one(spec, response, reference=None, **metadata):
    return open_verifier(spec).verify([Attempt(response=response, reference=reference, metadata=metadata)])[0]


@pytest.mark.parametrize(
    "response",
    ["B", "(B)", "B.", "The answer is B.", "The answer is (B).", r"\boxed{B}", r"\boxed{\text{(B)}}", "Answer: B) 12", "**B**",
     "The correct answer is option B", "the answer is (b)", r"\boxed{\textbf{(B)}\ 12}", "Answer: 12", "The answer is B because 12 fits."],
)  # fmt: skip
def test_choice_accepts(response):
    verdict = one("choice", response, "B", choices=["10", "12", "14"])
    assert (verdict.score, verdict.answer) == (1.0, "B"), verdict


@pytest.mark.parametrize(
    "response",
    ["A", "The answer is C.", "A or B", "", r"\boxed{A} \boxed{B}", "The answer is A bird.", "14", "D"],
)
def test_choice_rejects(response):
    verdict = one("choice", response, "B", choices=["10", "12", "14"])
    assert verdict.score == 0, verdict


def test_choice_references():
    assert one("choice", "B", "12", choices={"A": "10", "B": "12"}).score == 1
    assert one("choice", "B", "(b)").score == 1
    assert one("choice", "B", "maybe").score is None
    assert one("choice:letters=4", "The answer is E", "B").score == 0
    with pytest.raises(VerifierError, match="letters"):
        open_verifier("choice:letters=1")


def test_regex():
    assert one("regex:^yes$", "yes").score == 1
    assert one("regex:^yes$", "no").score == 0
    assert open_verifier("regex:a+b").name == "regex:a+b"
    assert open_verifier("regex:x=1,y=2").name == "regex:x=1,y=2"
    found = one(r"regex:total (\d+)", "total 3, then total 5")
    assert (found.score, found.answer) == (1.0, "5")
    assert one("regex", "abc", "b").score == 1
    assert one("regex", "abc", "(").score is None
    assert one("regex", "abc", None).score is None
    assert not open_verifier("regex:a").oracle
    assert open_verifier("regex").oracle
    for pattern in ("(a+)+$", "(", "(x*)*"):
        with pytest.raises(VerifierError):
            open_verifier(f"regex:{pattern}")


SCHEMA = {
    "type": "object",
    "required": ["name", "sizes"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 2},
        "sizes": {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": 3},
        "kind": {"enum": ["a", None]},
    },
}


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ({"name": "ab", "sizes": [1, 2]}, True), ({"name": "ab", "sizes": [], "kind": None}, True),
        ({"name": "ab", "sizes": [1.0]}, True), ({"name": "a", "sizes": []}, False), ({"name": "ab"}, False),
        ({"name": "ab", "sizes": [True]}, False), ({"name": "ab", "sizes": [-1]}, False), ({"name": "ab", "sizes": [1] * 4}, False),
        ({"name": "ab", "sizes": [], "other": 1}, False), ({"name": "ab", "sizes": [], "kind": "b"}, False), ([], False),
    ],
)  # fmt: skip
def test_json_schema(value, fits):
    text = "Here it is.\n```json\n" + json.dumps(value) + "\n```"
    assert one("json", text, schema=SCHEMA).score == float(fits)
    assert one("json", json.dumps(value), schema=SCHEMA).score == float(fits)


def test_json_reference_and_trouble():
    assert one("json", '{"b": 1, "a": [1, true]}', {"a": [1, True], "b": 1.0}).score == 1
    assert one("json", '{"a": 1}', '{"a": true}').score == 0
    assert one("json", "{'a': 1}", '{"a": 1}').status == "unparsable"
    assert one("json", "NaN", "1").status == "unparsable"
    assert one("json", "[" * 100_000, "1").status == "unparsable"
    assert one("json", "1", None).status == "bad_reference"
    assert one("json", "1", None, schema={"$ref": "#"}).status == "bad_reference"


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("<think>a</think><answer>5</answer>", 1), ("a</think>\n<answer>5</answer>", 1), ("<think></think><answer>5</answer>", 0),
        ("<think>a</think>5", 0), ("<think>a</think><answer>5</answer> bye", 0), ("<answer>5</answer>", 0),
        ("<think>a<think>b</think><answer>5</answer>", 0), ("<think>a</think><answer> </answer>", 0),
        ("<think>a</think><answer>5</answer><answer>6</answer>", 0), ("<answer>5</answer><think>a</think>", 0), ("", 0),
    ],
)  # fmt: skip
def test_format(response, score):
    assert one("format", response).score == score


def test_format_options_and_composition():
    assert one("format:answer=", "<think>a</think> 5").score == 1
    assert one("format:think=reason", "<reason>a</reason><answer>5</answer>").score == 1
    both = open_verifier("math*1.0+format*0.1")
    assert both.name == "math*1+format*0.1"
    right = both.verify([Attempt(response="<think>a</think><answer>\\boxed{5}</answer>", reference="5")])[0]
    bare = both.verify([Attempt(response="\\boxed{5}", reference="5")])[0]
    wrong = both.verify([Attempt(response="<think>a</think><answer>6</answer>", reference="5")])[0]
    assert right.score == 1
    assert bare.score == pytest.approx(1 / 1.1)
    assert not bare.correct
    assert wrong.score == pytest.approx(0.1 / 1.1)
    missing = both.verify([Attempt(response="5", reference=None)])[0]
    assert (missing.score, missing.status) == (None, "bad_reference")


def test_a_schema_in_the_place_of_the_reference_says_where_it_belongs():
    verdict = one("json", "{}", json.dumps({"type": "object", "required": ["a"]}))
    assert (verdict.score, verdict.status) == (None, "bad_reference")
    assert 'metadata["schema"]' in verdict.reason
    assert one("json", '{"type": "cat"}', {"type": "cat"}).score == 1


@pytest.mark.parametrize("spec", ["math*-1", "math*1+format*-0.5"])
def test_a_negative_weight_is_named(spec):
    with pytest.raises(VerifierError, match=r"weight of '(math|format)' is -"):
        open_verifier(spec)
