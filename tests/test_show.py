"""`reasoning show`: what is in a run and what it spent, and that it changes nothing."""

import json
import re

import pytest
from fake_engine import ScriptedEngine

from reasoning.budget import Budget, Ledger
from reasoning.cli import main
from reasoning.cli.contents import COLUMNS, cell, costs, print_costs
from reasoning.cli.purse import look_at_ledger, open_ledger
from reasoning.pool import Pool
from reasoning.pool.merge import merge
from reasoning.prices import Prices
from reasoning.records import Cost, Problem, Sampling
from reasoning.runfile import write_run
from reasoning.sampling import sample, verify
from verifiers.numeric import Numeric

PROBLEMS = [Problem.make(f"What is {i} plus {i} ?", str(2 * i)) for i in range(4)]
TABLE = 'currency = "EUR"\n[models.scripted]\ninput = 1e6\noutput = 2e6\n'


@pytest.fixture
def run(tmp_path):
    """A run that sampled 8 chains, verified them, and charged work of every kind."""
    folder = tmp_path / "run"
    with Pool.open(folder) as pool, Ledger(Budget(tokens=10**6), folder) as ledger:
        sample(PROBLEMS, ScriptedEngine(), pool, ledger, 2, Sampling(max_new_tokens=32))
        verify(pool, Numeric(), ledger=ledger)
        with ledger.reserve(Cost(100, 0, 200, 50, 1e6), 3, phase="search", strategy="best_of_n") as held:  # type: ignore[union-attr]
            charge = held.prepare(Cost(10, 5, 40, 7, 2.5e5, 90.0), 3, 11, cancelled_tokens=2, failed_tokens=3)
            held.commit(charge)
    write_run(folder, "sample", {"task": "word:test", "n": 2, "budget": "tokens=1000000", "model": ""})
    return folder


def files(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def show(capsys, *arguments):
    status = main(["show", *map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_the_sections_of_a_run(run, capsys):
    status, out, err = show(capsys, run)
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == str(run)
    assert re.match(r"  pool       8 chains of 4 problems, [\d.]+k?B$", lines[1])
    assert "    model    scripted@1" in lines
    assert f"    verdicts 8 by {Numeric().name} (oracle)" in lines
    assert any(re.match(r"  sample +task=word:test  n=2  budget=tokens=1000000$", line) for line in lines)
    assert any(re.match(r"  spent      \S+ tokens  \S+ FLOPs  1:30$", line) for line in lines), out
    assert any(line.startswith("  file       ledger.jsonl  ") for line in lines)
    assert "model=" not in out.partition("spent")[2]  # settings that are empty are not shown
    assert f"reasoning show {run} --cost" in err


def test_the_cost_table_has_every_column_and_sums_to_the_ledger(run, capsys):
    status, out, _ = show(capsys, run, "--cost", "--json")
    shown = json.loads(out)
    with Ledger(path=run, read_only=True) as ledger:
        spent, by = ledger.spent, ledger.totals(("phase", "strategy"))
    assert status == 0
    assert [(r["phase"], r["strategy"]) for r in shown["rows"]] == list(by)
    names = ("prompt_tokens", "cached_tokens", "output_tokens", "scored_tokens", "flops", "seconds")
    for name in names:
        assert shown["total"][name] == pytest.approx(sum(r[name] for r in shown["rows"]), rel=1e-12)
        assert shown["total"][name] == getattr(spent.cost, name)
    for name in ("samples", "discarded_tokens", "cancelled_tokens", "failed_tokens"):
        assert shown["total"][name] == sum(r[name] for r in shown["rows"]) == getattr(spent, name)
    (search,) = (r for r in shown["rows"] if r["phase"] == "search")
    assert search == {
        "phase": "search", "strategy": "best_of_n", "samples": 3, "prompt_tokens": 10, "cached_tokens": 5,
        "output_tokens": 40, "scored_tokens": 7, "flops": 2.5e5, "seconds": 90.0, "discarded_tokens": 11,
        "cancelled_tokens": 2, "failed_tokens": 3, "tokens": 57, "price": None,
    }  # fmt: skip
    (budget,) = shown["budgets"]
    assert budget["left"] == {"tokens": 10**6 - spent.cost.tokens}


def test_the_table_as_it_is_printed(run, capsys):
    status, out, _ = show(capsys, run, "--cost")
    lines = out.splitlines()
    assert status == 0
    titles = [title for key, title in COLUMNS if key != "price"]
    assert any(line.split()[-len(titles) :] == titles for line in lines)
    with Ledger(path=run, read_only=True) as ledger:
        total = costs(run, None)["total"]
        assert total["tokens"] == ledger.spent.cost.tokens
    sums = " ".join(cell(total, key) for key, _ in COLUMNS if key != "price").split()
    assert any(line.split()[-len(sums) :] == sums for line in lines)
    assert "Counted in prompt, output or scored, too: discarded, cancelled, failed." in lines
    assert any(
        line.startswith("Left of the budget of sample: ") and "of 1.0M tokens" in line for line in lines
    )


def test_columns_without_a_count_are_named_below_the_table(tmp_path, capsys):
    with Ledger(path=tmp_path) as ledger:
        ledger.charge(Cost(3, 0, 4, 0, 5.0, 0.5), 1, phase="sample", strategy="m@1")
    _, out, _ = show(capsys, tmp_path, "--cost")
    assert out.splitlines()[0].split() == ["phase", "strategy", "chains", "prompt", "output", "FLOPs", "time"]
    assert out.splitlines()[2].split() == ["sample", "m@1", "1", "3", "4", "5", "0.5", "s"]
    assert out.splitlines()[-1] == "None: cached, scored, discard, cancel, failed."


def test_prices_from_the_runs_own_table_and_what_has_none(run, capsys):
    (run / "prices.toml").write_text(TABLE)
    _, out, _ = show(capsys, run, "--cost", "--json")
    shown = json.loads(out)
    (drawn,) = (r for r in shown["rows"] if r["phase"] == "sample")
    assert drawn["price"] == pytest.approx(
        drawn["prompt_tokens"] + drawn["cached_tokens"] + 2 * drawn["output_tokens"]
    )
    assert shown["total"]["price"] == drawn["price"]
    assert (shown["currency"], shown["unpriced_rows"]) == ("EUR", 1)
    _, out, _ = show(capsys, run, "--cost")
    assert "EUR" in out.splitlines()[1].split()
    assert "Charges without a price, since the table lacks their model (best_of_n): 1." in out


def test_a_table_that_has_none_of_the_models_says_which(tmp_path, capsys):
    with Ledger(path=tmp_path) as ledger:
        ledger.charge(Cost(3, 0, 4, 0, 5.0, 0.5), 1, phase="sample", strategy="s", model="tiny@host:1")
    (tmp_path / "prices.toml").write_text("[models.other]\ninput = 1.0\n")
    _, out, _ = show(capsys, tmp_path, "--cost")
    assert "Charges without a price, since the table lacks their model (tiny): 1." in out


def test_money_has_two_digits():
    from reasoning.cli.purse import in_money

    assert [in_money(v) for v in (0, 0.003, 0.0031, 0.5, 1, 12.4)] == [
        "0.00",
        "0.0030",
        "0.0031",
        "0.50",
        "1.00",
        "12.40",
    ]


def test_money_is_that_of_the_models_used_now(tmp_path):
    from reasoning.cli.purse import money

    prices = Prices.from_mapping({"currency": "EUR", "models": {"known": {"output": 1e6}}})
    with Ledger(path=tmp_path, prices=prices) as ledger:
        assert money(ledger, 0) == ""
        ledger.charge(Cost(0, 0, 4), 1, phase="sample", strategy="s", model="known@1")
        assert money(ledger, 0) == "4.00 EUR"
        ledger.charge(Cost(0, 0, 4), 1, phase="sample", strategy="s", model="unknown@1")
        assert money(ledger, 1) == ""  # not 0.00
        assert money(ledger, 0) == "4.00 EUR for what has a price"
        assert money(ledger, 2) == "0.00 EUR"


def test_json_of_the_contents(run, capsys):
    status, out, _ = show(capsys, run, "--json")
    shown = json.loads(out)
    assert status == 0
    assert (shown["pool"]["chains"], shown["pool"]["problems"]) == (8, 4)
    assert shown["pool"]["verdicts"] == {Numeric().name: 8}
    assert shown["config"]["sample"]["task"] == "word:test"
    assert shown["files"]["ledger.jsonl"] == (run / "ledger.jsonl").stat().st_size
    assert shown["spent"]["samples"] == 8 + 3


def test_a_folder_that_is_no_run_and_one_that_spent_nothing(tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    status, out, err = show(capsys, empty)
    assert (status, out) != (0, "")
    assert "holds no pool, no ledger and no run.toml" in err
    status, _, err = show(capsys, tmp_path / "none")
    assert status != 0
    assert "no such run folder" in err
    with Pool.open(empty) as pool:
        pool.add_problems(PROBLEMS)
    status, out, _ = show(capsys, empty)
    assert status == 0
    assert "0 chains of 4 problems" in out
    assert "spent" not in out
    status, _, err = show(capsys, empty, "--cost")
    assert status != 0
    assert "has no ledger, and its pool no charges: nothing was spent there yet" in err
    assert not (empty / "ledger.jsonl").exists()


def test_a_run_without_a_pool(tmp_path, capsys):
    with Ledger(path=tmp_path) as ledger:
        ledger.charge(Cost(scored_tokens=9, flops=1e9), phase="train", strategy="fit")
    status, out, _ = show(capsys, tmp_path)
    assert status == 0
    assert "pool" not in out.replace(str(tmp_path), "")
    assert re.search(r"^  spent      9 tokens  1.0G FLOPs  0.0 s$", out, re.MULTILINE), out
    assert json.loads(show(capsys, tmp_path, "--json")[1])["pool"] is None


@pytest.mark.parametrize("how", [[], ["--cost"], ["--json"], ["--cost", "--json"]])
def test_it_only_reads(run, capsys, how):
    with (run / "ledger.jsonl").open("ab") as file:
        file.write(b'{"crc":"00')  # the torn end of a row: a writer may be at work
    before = files(run)
    with Ledger(Budget(tokens=10**7), run):  # somebody spends from the run meanwhile
        before = files(run)
        assert show(capsys, run, *how)[0] == 0
    assert files(run) == before


def damage(run):
    ledger = run / "ledger.jsonl"
    lines = ledger.read_bytes().split(b"\n")
    lines[1] = lines[1].replace(b'"samples":8', b'"samples":9')
    ledger.write_bytes(b"\n".join(lines))


def test_a_damaged_ledger_is_shown_with_what_is_left_and_a_note(run, capsys):
    damage(run)
    status, out, err = show(capsys, run, "--cost", "--json")
    assert status == 0
    assert "ledger.jsonl: skipped the damaged record in line 2." in err
    assert "Rows that only the pool has, counted here: 1." in err
    assert json.loads(out)["total"]["samples"] == 11
    (run / "ledger.jsonl").write_text("not a ledger\n")
    status, _, err = show(capsys, run, "--cost")
    assert status == 0
    assert "holds no rows: what was spent before is not known" in err


def test_every_way_to_open_a_ledger_prints_its_notes(run, capsys):
    damage(run)
    look_at_ledger(run)
    assert "skipped the damaged record in line 2" in capsys.readouterr().err
    open_ledger(run).close()
    assert "skipped the damaged record in line 2" in capsys.readouterr().err


def test_a_lost_ledger_comes_back_from_the_pool(run, capsys):
    """What the pool was charged is shown without a ledger, and counts against the budget of the next command."""
    with Pool.open(run, read_only=True) as pool:
        charged = sum(c.cost.tokens for c in pool.charges())
    assert charged > 0
    for content in (None, b"not a ledger\n"):
        if content is None:
            (run / "ledger.jsonl").unlink()
        else:
            (run / "ledger.jsonl").write_bytes(content)
        status, out, err = show(capsys, run, "--cost", "--json")
        assert (status, json.loads(out)["total"]["tokens"]) == (0, charged)
        assert f"({charged} tokens) were not in this ledger" in err
        with Pool.open(run) as pool:
            for _ in range(2):  # once they are written, nothing is missing
                with open_ledger(run, Budget(tokens=10**6), pool=pool) as ledger:
                    assert ledger.left().tokens == 10**6 - charged
        assert capsys.readouterr().err.count("count as spent here") == 1
    with Ledger(path=run, read_only=True) as ledger:
        assert ledger.spent.cost.tokens == charged


def test_a_merged_pool_shows_the_charges_of_its_parts(run, tmp_path, capsys):
    merge([run], tmp_path / "both")
    status, out, err = show(capsys, tmp_path / "both", "--cost", "--json")
    assert status == 0, err
    assert json.loads(out)["total"]["samples"] == 8
    assert json.loads(show(capsys, tmp_path / "both", "--json")[1])["spent"]["samples"] == 8


VERBS = [
    ["sample", "{run}", "--task", "word:test:n=1", "--engine", "replay:{run}", "-n", "1"],
    ["verify", "{run}", "--verifier", "numeric"],
    ["search", "{run}", "--task", "word:test:n=1", "--engine", "replay:{run}", "--strategy", "majority:n=1"],
    ["curve", "{run}"],
    ["show", "{run}"],
    ["show", "{run}", "--cost"],
]


@pytest.mark.parametrize("words", VERBS, ids=lambda words: " ".join(words[:1] + words[2:3]))
def test_notes_on_the_ledger_are_printed_by_each_command(run, capsys, words):
    damage(run)
    main([word.format(run=run) for word in words])
    assert "ledger.jsonl: skipped the damaged record in line 2." in capsys.readouterr().err


@pytest.mark.parametrize("width", [20, 80, 100, 300])
def test_a_terminal_of_any_width(run, capsys, monkeypatch, width):
    (run / "prices.toml").write_text(TABLE)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", "24")
    write_run(run, "train", {f"a_long_setting_{i}": i for i in range(1, 30)})
    shown = costs(run, Prices.read(run / "prices.toml"))
    print_costs(shown)
    table = capsys.readouterr().out
    for out in (table, show(capsys, run)[1].partition("  file ")[0]):
        assert (
            max(len(line) for line in out.splitlines()) <= min(max(width, 80), 100)
            or str(run) in out.splitlines()[0]
        )
    for row in shown["rows"]:
        assert row["phase"] in table
        assert row["strategy"] in table
    for key, _ in COLUMNS:
        assert cell(shown["total"], key) in table


def test_locks_are_no_files_to_look_at(run, capsys):
    for name in (".lock", ".rewriting"):
        (run / name).touch()
    main(["show", str(run)])
    said = capsys.readouterr().out
    assert "run.toml" in said
    assert ".rewriting" not in said
    assert ".lock" not in said
