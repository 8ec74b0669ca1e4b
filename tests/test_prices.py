"""Prices of work, and budgets in them."""

import json

import pytest

from reasoning.budget import Budget, Ledger
from reasoning.charges import Charge
from reasoning.durable import frame_row
from reasoning.errors import EngineError, PoolError, UserError
from reasoning.prices import Prices, find_prices
from reasoning.records import Cost

TABLE = """
currency = "EUR"
[models.small]
input = 1.0
cached = 0.25
output = 4.0
[models."learned:runs/v"]
scored = 0.5
[models.mine]
hour = 3.6
"""


@pytest.fixture
def prices(tmp_path):
    (tmp_path / "prices.toml").write_text(TABLE)
    return Prices.read(tmp_path / "prices.toml")


def test_every_kind_of_token_has_its_price(prices):
    cost = Cost(prompt_tokens=1_000_000, cached_tokens=400_000, output_tokens=500_000)
    assert prices.rate("small@abc").price(cost, "small") == pytest.approx(1.0 + 0.1 + 2.0)
    assert prices.rate("learned:runs/v:version=12ab").price(Cost(scored_tokens=2_000_000), "v") == 1.0
    assert prices.rate("mine").price(Cost(output_tokens=10**9, seconds=50.0), "mine") == pytest.approx(0.05)
    with pytest.raises(UserError, match="no 'output' price for learned"):
        prices.rate("learned:runs/v").price(Cost(output_tokens=1), "learned:runs/v")
    with pytest.raises(UserError, match=r"no price for model 'other': add \[models.\"other\"\]") as e:
        prices.rate("other@1")
    assert "\n" not in str(e.value)


def test_the_most_a_prompt_costs_is_the_dearer_of_computed_and_cached():
    dear = Prices.from_mapping({"models": {"m": {"input": 1.0, "cached": 3.0, "output": 0.0}}}).rate("m")
    assert dear.most(Cost(prompt_tokens=10), "m") == pytest.approx(30e-6)
    assert dear.price(Cost(cached_tokens=10), "m") == pytest.approx(30e-6)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("models = 3", "needs a table"),
        ("[models.m]\ninput = -1", "must be a price from 0"),
        ("[models.m]\ninput = true", "must be a price from 0"),
        ("[models.m]\ninput = nan", "must be a price from 0"),
        ("[models.m]\noutputs = 1", "Did you mean 'output'"),
        ("[models.m]", "give one or more of"),
        ("currency = 3\n[models.m]\nhour = 1", "currency must be a name"),
        ("curency = 'x'\n[models.m]\nhour = 1", "Did you mean 'currency'"),
        ("[models", "not TOML"),
    ],
)
def test_a_bad_table_is_one_line_that_names_the_file(tmp_path, content, says):
    path = tmp_path / "prices.toml"
    path.write_text(content)
    with pytest.raises(UserError, match=says) as e:
        Prices.read(path)
    assert "\n" not in str(e.value)
    assert "prices.toml" in str(e.value)


def test_a_run_folder_may_hold_its_own_table(tmp_path, prices):
    assert find_prices(tmp_path) == prices
    assert find_prices(tmp_path / "none") is None
    (tmp_path / "prices.json").write_text(json.dumps({"models": {"m": {"hour": 1}}}))
    with pytest.raises(UserError, match="keep one of them"):
        find_prices(tmp_path)
    assert find_prices(tmp_path, str(tmp_path / "prices.json")).currency == "USD"  # type: ignore[union-attr]
    with pytest.raises(UserError, match="no such price table"):
        find_prices(tmp_path, str(tmp_path / "else.toml"))


def test_a_limit_in_price_is_reserved_settled_and_never_overshot(prices):
    ledger = Ledger(Budget(price=0.01), prices=prices)
    worst = Cost(output_tokens=1000)  # 0.004
    assert ledger.affordable(worst, 100, model="small") == 2
    first = ledger.reserve(worst, 1, phase="sample", model="small@1")
    second = ledger.reserve(worst, 1, phase="sample", model="small@1")
    assert first is not None
    assert second is not None
    assert ledger.reserve(worst, 1, phase="sample", model="small@1") is None
    first.settle(Cost(output_tokens=250), 1, final=False)
    first.settle(Cost(output_tokens=250), 0)
    assert ledger.left().price == pytest.approx(0.01 - 0.002 - 0.004)
    second.release()
    assert ledger.left().price == pytest.approx(0.008)
    assert ledger.spent.price == pytest.approx(0.002)
    with pytest.raises(UserError, match="no price for model 'other'"):
        ledger.reserve(worst, phase="sample", model="other@2")
    with pytest.raises(UserError, match="names no model"):
        ledger.reserve(worst, phase="sample")
    assert ledger.reserve(Cost(), phase="verify", model="numeric"), "rules cost nothing"
    with pytest.raises(EngineError, match="price were spent"):
        ledger.charge(Cost(output_tokens=10_000), phase="sample", model="small")


def test_a_budget_in_price_needs_a_table():
    with pytest.raises(UserError, match="needs a price table"):
        Ledger(Budget(price=1))
    assert Budget.parse("price=2.50") == Budget(price=2.5)
    assert Budget.parse(str(Budget(price=1234567.89))) == Budget(price=1234567.89)


def test_a_price_by_the_hour_stops_the_next_call_only(prices):
    ledger = Ledger(Budget(price=0.01), prices=prices)
    assert ledger.seconds_left("mine@1") == pytest.approx(10.0)
    held = ledger.reserve(Cost(output_tokens=10**9), 1, phase="sample", model="mine@1")
    assert held is not None
    held.settle(Cost(output_tokens=5, seconds=12.0), 1)
    assert ledger.spent.price == pytest.approx(0.012)
    assert ledger.reserve(Cost(output_tokens=1), 1, phase="sample", model="mine@1") is None


def test_prices_are_stored_with_the_run_and_rows_without_are_valued_now(tmp_path, prices):
    with Ledger(None, tmp_path) as ledger:  # no table: no price
        ledger.charge(Cost(output_tokens=500_000), phase="sample", model="small@1")
        ledger.charge(Cost(scored_tokens=7), phase="verify", model="judge")
        assert ledger.spent.price is None
    with Ledger(None, tmp_path, prices) as ledger:
        ledger.charge(Cost(output_tokens=250_000), phase="sample", model="small@1")
        assert ledger.spent.price == pytest.approx(3.0)
        assert [c.price for c in ledger.charges] == [2.0, None, 1.0]
    with Ledger(None, tmp_path) as ledger:
        assert (ledger.spent.price, ledger.spent.currency) == (1.0, "EUR")
    with pytest.raises(UserError, match="no price for model 'judge'"):
        Ledger(Budget(price=9), tmp_path, prices)
    with pytest.raises(UserError, match=r"was charged in EUR, and .* is in USD"):
        Ledger(None, tmp_path, Prices({}, "USD"))


def test_training_names_its_model_so_that_a_budget_in_price_covers_it(tmp_path, prices):
    step, fit = Cost(output_tokens=250_000, seconds=3.0), Cost(prompt_tokens=100_000, flops=1e9)
    with Ledger(None, tmp_path) as ledger:  # a trainer, without a table
        ledger.charge(step, phase="train", strategy="grpo", model="small@step1")
        ledger.charge(fit, phase="train", strategy="fit", model="small@step2")
    with Ledger(Budget(price=2), tmp_path, prices) as ledger:
        assert ledger.left().price == pytest.approx(2 - 1.0 - 0.1)
        assert ledger.reserve(Cost(output_tokens=230_000), phase="sample", model="small@step2") is None
        assert ledger.reserve(Cost(output_tokens=220_000), phase="sample", model="small@step2")
        ledger.charge(Cost(output_tokens=1000), phase="train", strategy="grpo", model="small@step3")
        assert ledger.spent.price == pytest.approx(1.104)
        with pytest.raises(UserError, match="names no model"):
            ledger.charge(step, phase="train", strategy="grpo")


def test_ledgers_of_format_1_are_read_and_those_of_a_newer_one_refused(tmp_path, prices):
    old = {"id": "ab-1", "phase": "sample", "strategy": "small@1", "prompt_tokens": 1, "cached_tokens": 0}
    old |= {"output_tokens": 1_000_000, "scored_tokens": 0, "flops": 5.0, "seconds": 1.0}
    old |= {"samples": 3, "discarded_tokens": 2}
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(frame_row({"ledger": "ab", "format": 1}) + frame_row(old))
    with Ledger(Budget(price=5), tmp_path, prices) as ledger:
        (row,) = ledger.charges
        assert (row.samples, row.discarded_tokens, row.cancelled_tokens, row.model) == (3, 2, 0, "")
        assert ledger.left().price == pytest.approx(5 - 4.000001)
        ledger.charge(Cost(output_tokens=1), phase="sample", model="small")
    assert Ledger(path=tmp_path, read_only=True).spent.cost.output_tokens == 1_000_001
    path.write_bytes(frame_row({"ledger": "ab", "format": 3}))
    with pytest.raises(PoolError, match="newer version"):
        Ledger(None, tmp_path)


def test_charges_come_back_as_they_were():
    full = Charge("search", "s", Cost(1, 2, 3, 4, 5.0, 6.0), 7, 8, "x-1", "m@1", 9, 10, 0.0, "USD")
    for charge in (full, Charge("train"), Charge("sample", price=1.5, currency="EUR")):
        assert Charge.from_json(json.loads(json.dumps(charge.to_json()))) == charge


def test_a_ledger_opened_for_reading_keeps_out_of_the_way(tmp_path):
    with Ledger(Budget(tokens=100), tmp_path) as ledger:
        ledger.charge(Cost(output_tokens=3), phase="sample")
        seen = Ledger(path=tmp_path, read_only=True)
        assert seen.spent.cost.output_tokens == 3
        with pytest.raises(PoolError, match="reading only"):
            seen.charge(Cost(output_tokens=1), phase="sample")
        with (tmp_path / "ledger.jsonl").open("ab") as file:
            file.write(b'{"crc":"0')
        assert not Ledger(path=tmp_path, read_only=True).notes, "its writer is in the middle of a line"
    assert "torn" in Ledger(path=tmp_path, read_only=True).notes[0]
    with pytest.raises(UserError, match="nothing was spent"):
        Ledger(path=tmp_path / "none", read_only=True)
