"""What `math` computes is capped and its own: work counted in steps, precision not shared with other threads."""

import threading

import mpmath
import pytest

from verifiers import Attempt, equivalence_classes, open_verifier
from verifiers.expressions import work
from verifiers.reading import read

PRIMES = [n for n in range(2, 282) if all(n % k for k in range(2, int(n**0.5) + 1))][:60]
SURDS = [rf"\sqrt{{{p}}}" for p in PRIMES]


def judged(response, reference):
    return open_verifier("math").verify([Attempt(response=response, reference=reference)])[0]


@pytest.mark.parametrize(
    ("reference", "response"),
    [
        (",".join(SURDS), rf"\boxed{{{','.join(reversed(SURDS))}}}"),
        (",".join(f"{s}+1" for s in SURDS), rf"\boxed{{{','.join(f'1+{s}' for s in reversed(SURDS))}}}"),
        ("5", " and ".join(rf"\boxed{{{'+'.join(SURDS[:50])}+{i}}}" for i in range(64))),
        ("5", rf"\boxed{{{'+'.join(f'3^{{10^{{{200 + i}}}}}' for i in range(40))} \bmod (10^{{300}}+7)}}"),
    ],
)
def test_beyond_the_cap_is_a_status_with_a_reason(reference, response):
    verdict = judged(response, reference)
    assert (verdict.score, verdict.status) == (0.0, "work_limit")
    assert "more computation than one verdict may take" in verdict.reason


def test_a_reference_beyond_the_cap_is_unusable():
    reference = "+".join(rf"3^{{10^{{{200 + i}}}}}" for i in range(40)) + r" \bmod (10^{300}+7)"
    assert judged("5", reference).status == "bad_reference"


def test_a_sum_of_sixty_surds_is_within_the_cap():
    verdict = judged(rf"\boxed{{{'+'.join(reversed(SURDS))}}}", "+".join(SURDS))
    assert (verdict.score, verdict.rule) == (1.0, "value")


def test_a_text_counts_the_same_whether_remembered_or_not():
    """A verdict must not depend on what was judged before it."""
    spent = []
    for _ in range(2):
        with work.limited(1_000_000):
            read("+".join(SURDS[:17]))
            spent.append(1_000_000 - work._count.left)
    assert spent[0] == spent[1] > 0


def test_a_cap_inside_another_counts_by_itself_and_ends_with_its_block():
    with work.limited(10):
        with work.limited(100):
            work.charge(90)
        work.charge(10)
        with pytest.raises(work.TooMuchWork):
            work.charge(1)
    work.charge(10**9)


def test_classes_of_answers_that_are_too_much_to_compare():
    powers = [f"3^{{10^{{{200 + i}}}}}" for i in range(40)]
    one, other = (rf"{'+'.join(terms)} \bmod (10^{{300}}+7)" for terms in (powers, powers[::-1]))
    assert equivalence_classes([one, other, one, "5"]) == [0, 1, 0, 2]


@pytest.mark.parametrize("tag", ["<answer>", "</answer>", "<answer></answer", "answer ", "a: ", r"\boxed{"])
def test_ten_megabytes_of_openings_state_nothing(tag):
    verdict = judged(tag * (10_000_000 // len(tag)), "5")
    assert verdict.score == 0
    assert verdict.status in ("no_answer", "unparsable")


def test_the_last_closed_tag_counts():
    assert judged("<answer>4</answer> <answer>5</answer> </answer>", "5").correct
    assert judged("<ANSWER>5</Answer><answer>6", "5").correct
    assert not judged("<answer>5</answer><answer>6</answer>", "5").correct


def test_precision_is_not_shared_with_other_threads():
    """`mpmath.mp` has one precision for the process; here others change it all the time."""
    stop = threading.Event()

    def disturb():
        while not stop.is_set():
            for digits in (3, 400, 15):
                mpmath.mp.dps = digits

    pairs = [(rf"\sqrt{{{n}}}+{n}/7", rf"\boxed{{\frac{{{n}}}{{7}}+\sqrt{{{n}}}}}") for n in range(2, 60)]
    unequal = [(r"\frac{355}{113}", rf"\boxed{{\pi+{n}-{n}}}") for n in range(2, 30)]
    wrong = []

    def judge():
        wrong.extend(p for p in pairs if not judged(p[1], p[0]).correct)
        wrong.extend(p for p in unequal if judged(p[1], p[0]).correct)

    before = mpmath.mp.dps
    others = [threading.Thread(target=disturb) for _ in range(2)]
    judges = [threading.Thread(target=judge) for _ in range(3)]
    for thread in others + judges:
        thread.start()
    for thread in judges:
        thread.join()
    stop.set()
    for thread in others:
        thread.join()
    mpmath.mp.dps = before
    assert wrong == []


def test_verdicts_leave_the_precision_of_the_process_alone():
    before = mpmath.mp.dps
    mpmath.mp.dps = 33
    try:
        assert judged(r"\boxed{5\sqrt2}", r"\sqrt{50}").correct
        assert mpmath.mp.dps == 33
    finally:
        mpmath.mp.dps = before
