import errno
import os
import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning.budget import Budget, Charge, Ledger
from reasoning.durable import frame_row
from reasoning.errors import EngineError, PoolError, UserError
from reasoning.records import Cost


def tokens(n: int) -> Cost:
    return Cost(output_tokens=n, flops=10.0 * n)


def test_parse_and_print_are_inverse():
    budget = Budget.parse("tokens=2e6, seconds=60,samples=7,flops=1e15")
    assert budget == Budget(tokens=2_000_000, seconds=60.0, samples=7, flops=1e15)
    assert isinstance(budget.tokens, int)
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("token=3", "Did you mean 'tokens'"),
        ("tokens=many", "tokens=NUMBER"),
        ("tokens", "tokens=NUMBER"),
        ("tokens=1,tokens=2", "twice"),
        ("tokens=0", "positive"),
        ("tokens=-1", "positive"),
        ("seconds=nan", "positive"),
        ("flops=inf", "positive"),
        ("tokens=1.5", "whole"),
        ("", "Empty budget"),
    ],
)
def test_bad_budgets_are_user_errors(text, says):
    with pytest.raises(UserError, match=says) as e:
        Budget.parse(text)
    assert "\n" not in str(e.value)


def test_reserve_holds_the_worst_case_and_settle_returns_the_rest():
    ledger = Ledger(Budget(tokens=100))
    first = ledger.reserve(tokens(60), 1, phase="sample")
    assert first is not None
    assert ledger.reserve(tokens(41), 1, phase="sample") is None
    assert ledger.left().tokens == 40
    first.settle(tokens(10), 1)
    assert ledger.left().tokens == 90
    with pytest.raises(ValueError, match="settled"):
        first.settle(tokens(1))
    with ledger.reserve(tokens(90), phase="sample") or pytest.fail("refused"):
        assert ledger.left().tokens == 0
    assert ledger.left().tokens == 90, "an unsettled reservation goes back at the end of its block"


def test_parts_are_settled_one_by_one():
    ledger = Ledger(Budget(tokens=100, samples=4))
    held = ledger.reserve(tokens(100), 4, phase="search", strategy="majority")
    assert held is not None
    held.settle(tokens(30), 1, final=False)
    assert (ledger.left().tokens, ledger.left().samples) == (0, 0)
    held.settle(tokens(20), 1)
    assert (ledger.left().tokens, ledger.left().samples) == (50, 2)
    assert ledger.spent.cost == tokens(50)


def test_what_is_set_aside_shrinks_and_never_grows():
    ledger = Ledger(Budget(tokens=100, flops=1000.0))
    held = ledger.reserve(tokens(80), phase="train")
    held.shrink(tokens(30))
    assert (ledger.left().tokens, ledger.left().flops) == (70, 700.0)
    with pytest.raises(ValueError, match="more than"):
        held.shrink(tokens(31))
    held.release()
    assert (ledger.left().tokens, ledger.left().flops) == (100, 1000.0)
    with pytest.raises(ValueError, match="released already"):
        held.shrink(tokens(1))


def test_cached_tokens_are_not_charged_as_computed():
    ledger = Ledger(Budget(tokens=10))
    ledger.charge(Cost(prompt_tokens=4, cached_tokens=1000, scored_tokens=2), phase="verify")
    assert ledger.left().tokens == 4
    assert ledger.spent.cost.cached_tokens == 1000


@given(
    left=st.integers(1, 1000),
    unit=st.integers(0, 50),
    flops=st.floats(0.001, 1e9),
    at_most=st.integers(0, 100),
)
def test_affordable_is_the_largest_number_that_fits(left, unit, flops, at_most):
    ledger = Ledger(Budget(tokens=left, flops=flops * 7, samples=40))
    cost = Cost(output_tokens=unit, flops=flops)
    n = ledger.affordable(cost, at_most)

    def fits(k: int) -> bool:
        return unit * k <= left and flops * k <= flops * 7 and k <= min(40, at_most)

    assert fits(n)
    assert not fits(n + 1)


def test_seconds_stop_the_next_call_only():
    ledger = Ledger(Budget(seconds=5))
    held = ledger.reserve(Cost(), 1, phase="sample")
    assert held is not None
    held.settle(Cost(seconds=7.0), 1)
    assert ledger.reserve(Cost(), 1, phase="sample") is None
    assert ledger.affordable(Cost(), at_most=3) == 0


def test_an_engine_that_costs_more_than_its_worst_case_is_named():
    ledger = Ledger(Budget(tokens=10))
    held = ledger.reserve(tokens(10), phase="sample")
    assert held is not None
    with pytest.raises(EngineError, match="11 tokens were spent of 10"):
        held.settle(tokens(11))
    assert ledger.spent.cost.output_tokens == 11, "the row is the truth, even then"


def test_totals_keep_the_columns_apart():
    ledger = Ledger()
    ledger.charge(Cost(prompt_tokens=1, output_tokens=5), 2, phase="search", strategy="a", discarded_tokens=3)
    ledger.charge(Cost(scored_tokens=4), phase="verify", strategy="a")
    ledger.charge(Cost(output_tokens=7), 1, phase="search", strategy="b")
    assert ledger.totals() == {
        ("search",): Charge("search", "", Cost(prompt_tokens=1, output_tokens=12), 3, 3),
        ("verify",): Charge("verify", "", Cost(scored_tokens=4)),
    }
    assert list(ledger.totals(by=("strategy", "phase"))) == [
        ("a", "search"),
        ("a", "verify"),
        ("b", "search"),
    ]
    with pytest.raises(UserError, match="Did you mean 'phase'"):
        ledger.totals(by=("phases",))
    with pytest.raises(ValueError, match="phase must be"):
        ledger.charge(Cost(), phase="sampling")


def test_a_resumed_ledger_goes_on_with_what_is_left(tmp_path):
    with Ledger(Budget(tokens=100), tmp_path) as ledger:
        ledger.charge(Cost(output_tokens=30, flops=0.1, seconds=0.25), 3, phase="sample", strategy="s")
        first = ledger.charges
    with Ledger(Budget(tokens=100), tmp_path) as again:
        assert again.charges == first
        assert again.left().tokens == 70
        assert again.id == ledger.id
    assert (tmp_path / "ledger.jsonl").read_bytes().count(b"\n") == 2


def test_truncation_at_every_byte_of_the_last_row(tmp_path):
    with Ledger(None, tmp_path) as ledger:
        ledger.charge(tokens(1), 1, phase="sample")
        before = (tmp_path / "ledger.jsonl").stat().st_size
        ledger.charge(tokens(2), 1, phase="sample")
    data = (tmp_path / "ledger.jsonl").read_bytes()
    for cut in range(before, len(data)):
        (tmp_path / "ledger.jsonl").write_bytes(data[:cut])
        with Ledger(Budget(tokens=1000), tmp_path) as again:
            kept = [c.cost.output_tokens for c in again.charges]
            assert kept == ([1, 2] if cut == len(data) - 1 else [1])
            assert bool(again.notes) == (before < cut < len(data) - 1)
            again.charge(tokens(5), phase="sample")
        with Ledger(None, tmp_path) as last:
            assert [c.cost.output_tokens for c in last.charges] == [*kept, 5]
            assert not last.notes


def test_two_processes_never_spend_one_budget(tmp_path):
    with Ledger(Budget(tokens=100), tmp_path), pytest.raises(PoolError, match="another process"):
        Ledger(Budget(tokens=100), tmp_path)
    with Ledger(None, tmp_path) as a, Ledger(None, tmp_path) as b:
        a.charge(tokens(1), phase="sample")
        b.charge(tokens(2), phase="sample")
    with Ledger(None, tmp_path) as c:
        assert [row.cost.output_tokens for row in c.charges] == [1, 2]


def test_recover_writes_only_its_own_missing_rows(tmp_path):
    ledger = Ledger(Budget(tokens=100), tmp_path)
    held = ledger.reserve(tokens(50), phase="sample")
    assert held is not None
    lost = held.prepare(tokens(20), 1)
    known = ledger.charge(tokens(3), phase="sample")
    foreign = Ledger().charge(tokens(9), phase="sample")
    ledger.close()
    with Ledger(Budget(tokens=100), tmp_path) as again:
        assert again.recover([known, lost, foreign]) == 1
        assert again.recover([known, lost, foreign]) == 0
        assert again.spent.cost.output_tokens == 23


def test_only_a_row_that_is_stored_beside_its_results_is_not_waited_for(tmp_path, monkeypatch):
    waits = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (waits.append(fd), real(fd)))
    ledger = Ledger(Budget(tokens=100), tmp_path)
    held = ledger.reserve(tokens(50), phase="sample")
    assert held is not None
    file, size = tmp_path / "ledger.jsonl", (tmp_path / "ledger.jsonl").stat().st_size
    waits.clear()
    stored = [held.commit(held.prepare(tokens(n), 1), final=False, stored=True) for n in (1, 2)]
    assert not waits
    assert file.stat().st_size > size
    held.settle(tokens(3))
    assert len(waits) == 1, "which is waited for brings those before it to the disk"
    ledger.close()
    assert len(waits) == 1
    data = file.read_bytes()
    ledger = Ledger(Budget(tokens=100), tmp_path)
    waits.clear()
    ledger.reserve(tokens(4), phase="sample").commit(stored[0], stored=True)  # type: ignore[union-attr]
    ledger.close()
    assert len(waits) == 1, "what was not waited for is, at the end"
    for cut in range(size, len(data)):  # the machine failed, and the disk has only so much of it
        file.write_bytes(data[:cut])
        with Ledger(Budget(tokens=100), tmp_path) as again:
            again.recover(stored)
            assert again.spent.cost.output_tokens in (3, 6)
            assert {c.id for c in again.charges} >= {c.id for c in stored}


def test_threads_never_overshoot_by_a_token():
    budget = Budget(tokens=20_000, flops=230_000.0, samples=900)
    ledger = Ledger(budget)
    peak: list[float] = []

    def spend(seed: int) -> None:
        rng = random.Random(seed)
        while True:
            worst = rng.randint(1, 60)
            held = ledger.reserve(tokens(worst), 1, phase="sample", strategy=str(seed))
            if held is None:
                if ledger.affordable(tokens(1), 1) == 0:
                    return
                continue
            if rng.random() < 0.3:
                held.settle(tokens(rng.randint(0, worst // 2)), 0, final=False)
                held.settle(tokens(rng.randint(0, worst // 2)), 1)
            else:
                held.settle(tokens(rng.randint(0, worst)), 1)
            peak.append(ledger.spent.cost.tokens)

    threads = [threading.Thread(target=spend, args=(s,)) for s in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert budget.tokens
    assert max(peak) <= budget.tokens
    spent = ledger.spent
    assert spent.cost.flops <= 230_000.0
    assert spent.samples <= 900
    assert sum(c.cost.tokens for c in ledger.charges) == spent.cost.tokens
    left = ledger.left()
    assert min(left.tokens, left.samples) == 0 or left.flops < 10


@pytest.mark.parametrize("budget", [None, Budget(tokens=100)])
def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, monkeypatch, budget):
    ledger = Ledger(budget, tmp_path)
    ledger.charge(tokens(1), phase="sample")
    real = os.write

    def full(fd, data):
        real(fd, bytes(data)[:11])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(PoolError, match="disk is full") as e:
        ledger.charge(tokens(2), phase="sample")
    assert "\n" not in str(e.value)
    monkeypatch.undo()
    ledger.charge(tokens(3), phase="sample")
    ledger.close()
    with Ledger(None, tmp_path) as again:
        assert [c.cost.output_tokens for c in again.charges] == [1, 3]
        assert len(again.notes) == (budget is None), "beside other writers the torn line has to stay"


def test_a_ledger_whose_first_line_is_damaged_goes_on_with_a_note(tmp_path):
    file = tmp_path / "ledger.jsonl"
    with Ledger(Budget(tokens=100), file) as ledger:
        ledger.charge(Cost(prompt_tokens=30), phase="sample")
        name = ledger.id
    file.write_bytes(b"x" + file.read_bytes()[1:])
    with Ledger(Budget(tokens=100), file) as again:
        assert (again.id, again.left().tokens) == (name, 70)
        assert any("line 1" in note for note in again.notes)


def test_an_emptied_ledger_is_noted_and_a_foreign_file_is_one_line(tmp_path):
    with Ledger(None, tmp_path / "new.jsonl") as ledger:
        assert not ledger.notes
    file = tmp_path / "ledger.jsonl"
    file.touch()
    with Ledger(None, file) as ledger:
        assert any("holds no rows" in note for note in ledger.notes)
    file.write_bytes(frame_row({"segment": "x"}))
    with pytest.raises(PoolError, match=r"^[^\n]* this is no ledger [^\n]*$"):
        Ledger(None, file)
