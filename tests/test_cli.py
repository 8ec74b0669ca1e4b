"""Bad input: one clear line that says what to do, an exit status other than 0, and nothing lost."""

import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import fields
from functools import partial

import pytest

from reasoning.cli import VERBS, main, parse
from reasoning.options import flag
from reasoning.train.fresh import new_model, save_folder
from reasoning.train.options import TrainOptions


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("m") / "tiny"
    made, tokenizer = new_model(
        "new:tiny:hidden=32,layers=1,heads=2,kv_heads=1,ffn=48", ["Q: Gus has 6 toys.\nA:"]
    )
    save_folder(folder, made, tokenizer)
    return folder


@pytest.fixture
def run(tmp_path, model, capsys):
    """A run folder with three problems and four chains each."""
    assert main(sample(tmp_path / "run", model)) == 0
    capsys.readouterr()
    return tmp_path / "run"


def sample(run, model, *more):
    base = ["sample", str(run), "--task", "word:test:n=3", "--engine", f"transformers:{model}", "-n", "4"]
    return [*base, "--max-new-tokens", "8", *more]


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"reasoning {name}" in out for name in VERBS)


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_command_has_help_with_an_example(verb, capsys):
    with pytest.raises(SystemExit) as end:
        parse(verb, ["--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0
    assert f"reasoning {verb}" in out
    assert "--config" in out


def test_torchrun_hands_every_option_of_train_on():
    """It takes what begins like options of its own for them: none of ours may be that."""
    parser = importlib.import_module("torch.distributed.run").get_args_parser()
    names = [flag(field.name) for field in fields(TrainOptions) if field.name != "run"]  # RUN has no flag
    flags = [f for name in names for f in (name, f"--no-{name[2:]}")]
    assert len(flags) > 100
    for name in (*flags, "--config", "--debug"):
        mine = ["train", "runs/x", name, "1"]
        given = parser.parse_args(["--nproc-per-node", "2", "-m", "reasoning", *mine])
        assert (given.training_script, given.training_script_args) == ("reasoning", mine)


def test_verbs_of_the_pool_have_help_of_their_own(capsys):
    shown = {}
    for verb in (v for v in VERBS if v.startswith("pool ")):
        with pytest.raises(SystemExit):
            parse(verb, ["--help"])
        shown[verb] = capsys.readouterr().out
    for verb, text in shown.items():
        assert f"  reasoning {verb} runs/" in text
        assert not [other for other in shown if other != verb and f"reasoning {other} " in text]


MISTAKES = [
    (
        ["sample", "{tmp}/r", "--task", "word:test:n=3", "--engine", "transformers:{model}", "--stop", ""],
        "An empty stop string",
    ),
    (["train", "{tmp}/r", "--model", "m", "--objective", "gpro"], "Did you mean 'grpo'?"),
    (["smaple"], "Unknown command 'smaple'. Did you mean 'sample'?"),
    (["sample", "{tmp}/r"], "reasoning sample needs --task"),
    (["sample", "{tmp}/r", "--tsak", "word"], "Did you mean '--task'?"),
    (["train", "{tmp}/r", "--num_generations", "8"], "'--num_generations': here it is --chains-per-problem."),
    (["train", "--run", "x"], "'--run': RUN stands without a flag:  reasoning train RUN"),
    (["train", "--output_dir=x"], "'--output_dir': RUN stands without a flag"),
    (["verify", "--target", "x"], "'--target': TARGET stands without a flag"),
    (["curve", "{tmp}/r", "--max-steps=8"], "Unknown option of 'reasoning curve' '--max-steps'."),
    (
        ["sample", "{tmp}/r", "--task", "wrod:test", "--engine", "transformers:{model}"],
        "Did you mean 'word'?",
    ),
    (
        ["sample", "{tmp}/r", "--task", "word:tset", "--engine", "transformers:{model}"],
        "Did you mean 'test'?",
    ),
    (
        ["sample", "{tmp}/r", "--task", "word:test:m=3", "--engine", "transformers:{model}"],
        "Unknown 'word' option",
    ),
    (
        ["sample", "{tmp}/r", "--task", "word:test", "--engine", "transfomers:{model}"],
        "Did you mean 'transformers'?",
    ),
    (["sample", "{tmp}/r", "--task", "word:test", "--engine", "transformers:{tmp}"], "is not a model folder"),
    (["sample", "{tmp}/r", "--task", "word:test", "--engine", "transformers:{tmp}/none"], "No model"),
    (
        ["sample", "{tmp}/r", "--task", "jsonl:{tmp}/none.jsonl:question=q,answer=a", "--engine", "replay:x"],
        "none.jsonl",
    ),
    (["sample", "{tmp}/r", "--task", "word:test", "--engine", "vllm:some/model"], "vllm"),
    (
        ["sample", "{run}", "--task", "word:test:n=3", "--engine", "transformers:{model}", "--top-p", "2"],
        "top_p",
    ),
    (
        [
            "sample",
            "{run}",
            "--task",
            "word:test:n=3",
            "--engine",
            "transformers:{model}",
            "--budget",
            "token=5",
        ],
        "'tokens'",
    ),
    (["verify", "{tmp}/none", "--verifier", "numeric"], "none"),
    (["verify", "{run}", "--verifier", "numerc"], "Did you mean 'numeric'?"),
    (["verify", "{run}", "--verifier", "learned:{tmp}"], "reasoning fit"),
    (
        [
            "search",
            "{run}",
            "--task",
            "word:test:n=3",
            "--engine",
            "transformers:{model}",
            "--strategy",
            "best-of-m",
        ],
        "best_of_n",
    ),
    (
        [
            "search",
            "{run}",
            "--task",
            "word:test:n=3",
            "--engine",
            "transformers:{model}",
            "--strategy",
            "best_of_n",
        ],
        "scorer",
    ),
    (["search", "{run}"], "reasoning search needs --task"),
    (["curve", "{tmp}/none"], "none"),
    (["curve", "{run}"], "reasoning verify"),
    (["curve", "{run}", "--config", "{tmp}/none.toml"], "no such recipe"),
    (["import", "{tmp}/none.jsonl", "{tmp}/r", "--map", "question=q,response=r"], "none.jsonl"),
    (
        ["fit", "{tmp}/v", "--model", "{model}", "--pool", "{run}", "--task", "word:test:n=3"],
        "reasoning verify",
    ),
    (
        ["train", "{tmp}/t", "--model", "{model}", "--task", "word:train:n=9", "--objective", "grppo"],
        "Did you mean 'grpo'?",
    ),
    (["sample", "{tmp}/r", "-n", "0"], "-n must be 1 or above, not 0"),
    (["sample", "{tmp}/r", "-n", "inf"], "'inf' is not a whole number"),
    (["sample", "{tmp}/r", "--limit", "-1"], "--limit must be 0 or above, not -1"),
    (["search", "{tmp}/r", "--temperature", "1e9"], "--temperature must be between 0 and 100"),
    (["search", "{tmp}/r", "--top-k", "1e12"], "--top-k must be between 0 and 2147483648"),
    (["curve", "{run}", "-k", "0"], "-k must be 1 or above, not 0"),
    (["import", "{tmp}/f", "{tmp}/r", "--temperature", "nan"], "'nan' is not a finite number"),
    (["pool", "export", "{run}", "x.jsonl"], "is one argument too many; give it by its name:  --to x.jsonl"),
    (["pool", "export", "{run}"], "reasoning pool export needs --to: FILE.jsonl, FILE.parquet"),
    (["pool", "chek", "{run}"], "Did you mean 'pool check'?"),
]


@pytest.mark.parametrize(
    ("arguments", "words"),
    MISTAKES,
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_clear_message_and_a_status(arguments, words, run, model, tmp_path, capsys):
    filled = [a.format(tmp=tmp_path, run=run, model=model) for a in arguments]
    status = main(filled)
    err = capsys.readouterr().err.strip()
    assert status != 0
    assert words in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 3


def test_k_above_the_pool_is_refused(run, capsys):
    assert main(["verify", str(run), "--verifier", "numeric"]) == 0
    assert main(["curve", str(run), "-k", "64"]) == 2
    assert "64" in capsys.readouterr().err.strip().splitlines()[-1]


def test_an_empty_pool_is_refused(tmp_path, capsys):
    (tmp_path / "run" / "pool").mkdir(parents=True)
    assert main(["curve", str(tmp_path / "run"), "--verifier", "numeric"]) != 0
    assert "reasoning sample" in capsys.readouterr().err


def test_a_malformed_line_is_named_by_its_number(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"q": "1+1", "r": "2"}\n{"q": "1+1", \n')
    assert main(["import", str(path), str(tmp_path / "r"), "--map", "question=q,response=r"]) == 2
    assert "line 2" in capsys.readouterr().err


def test_rows_of_a_file_and_of_a_pipe_get_a_line_each_in_order(tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        '{"id": 7, "response": "The answer is 1,234.", "reference": "1234"}\n'
        '{"gold": "1/2", "answer": "0.5"}\n{"respones": "x"}\nnot json\n'
    )
    out = tmp_path / "verdicts.jsonl"
    assert main(["verify", str(rows), "--verifier", "numeric", "--out", str(out)]) == 1
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["score"] for line in lines] == [1.0, 1.0, None, None]
    assert [line["status"] for line in lines] == ["ok", "ok", "bad_row", "bad_row"]
    assert lines[0]["id"] == 7
    assert "line 3" in lines[2]["reason"]
    err = capsys.readouterr().err
    assert "4 rows: 2 correct" in err
    assert "2 of 4 rows were not judged (" in err
    piped = subprocess.run(
        [sys.executable, "-m", "reasoning", "verify", "-", "--verifier", "numeric"],
        input=rows.read_bytes(), capture_output=True, check=False,
    )  # fmt: skip
    assert piped.returncode == 1
    assert piped.stdout.decode() == out.read_text()
    before = rows.read_text()
    assert main(["verify", str(rows), "--verifier", "numeric", "--out", str(rows)]) == 2
    assert "is the file of rows itself" in capsys.readouterr().err
    assert rows.read_text() == before
    assert main(["verify", str(rows), "--verifier", "numeric", "--out", "-"]) == 1
    assert capsys.readouterr().out == out.read_text()


def test_wrong_answers_are_no_failure_and_rows_of_which_none_can_be_judged_are(tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"gold": "1", "answer": "2"}\n{"response": "no number", "reference": "3"}\n')
    assert main(["verify", str(rows), "--verifier", "numeric"]) == 0
    rows.write_text("not json\n[]\n")
    assert main(["verify", str(rows), "--verifier", "numeric"]) == 2
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_chains_that_were_cut_off_count_as_wrong_everywhere(tmp_path, capsys):
    """One figure by verify, import, curve and an export of the correct ones, whatever the verifier says."""
    file = tmp_path / "rows.jsonl"
    row = {
        "q": "1+1?",
        "a": "2",
        "r": ["The answer is 2.", "The answer is 2.", "3"],
        "f": ["stop", "length", "stop"],
    }
    other = row | {"q": "1+2?", "a": None, "r": ["3"], "f": ["stop"]}
    file.write_text(json.dumps(row) + "\n")
    mapping = "question=q,answer=a,response=r[],finish=f[]"
    run = str(tmp_path / "r")
    assert main(["import", str(file), run, "--map", mapping, "--verifier", "numeric"]) == 0
    assert "numeric: 33.3% of 3 chains are correct" in capsys.readouterr().out
    assert main(["import", str(file), str(tmp_path / "later"), "--map", mapping]) == 0
    assert main(["verify", str(tmp_path / "later"), "--verifier", "numeric"]) == 0
    captured = capsys.readouterr()
    assert "33.3% correct" in captured.out
    assert "1 of the 1 chains that were cut off score as correct" in captured.err
    assert main(["curve", run]) == 0
    shown = capsys.readouterr().out
    assert "33.3" in shown
    assert "What is right is said by 'numeric'. A chain that was cut off counts as wrong." in shown
    to = tmp_path / "sft.jsonl"
    assert main(["pool", "export", run, "--to", str(to), "--format", "messages", "--correct-only"]) == 0
    assert len(to.read_text().splitlines()) == 1
    file.write_text(json.dumps(row) + "\n" + json.dumps(other) + "\n")
    assert main(["import", str(file), str(tmp_path / "two"), "--map", mapping]) == 0
    assert main(["verify", str(tmp_path / "two"), "--verifier", "numeric"]) == 1  # one has no reference
    assert "1 chains have no verdict (bad_reference: the reference" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "two"), "--verifier", "code"]) == 2
    assert "code could judge none of the 4 chains" in capsys.readouterr().err


def test_sampling_again_draws_nothing_and_more_draws_the_rest(run, model, capsys):
    assert main(sample(run, model)) == 0
    assert "12/12 chains (12 were there)" in capsys.readouterr().out
    assert main(sample(run, model, "-n", "6")) == 0
    assert "18/18 chains (12 were there)" in capsys.readouterr().out


def test_a_file_of_problems_is_shown_by_its_columns(tmp_path, capsys):
    path = tmp_path / "my.csv"
    path.write_text("problem,gold,note\nZoë has 2 and gets 3.,5,x\n", encoding="utf-8")
    assert main(["tasks", str(path)]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[1:] == ["  problem  Zoë has 2 and gets 3.", "  gold     5", "  note     x"]
    command = shown.err.partition("Next:  reasoning ")[2].partition("    ")[0]
    assert main(shlex.split(command)) == 0
    assert "Zoë has 2 and gets 3." in capsys.readouterr().out
    assert main(["tasks", f"{path}:broken=skip"]) == 0
    assert f"prompt {path}:question=problem,answer=gold,broken=skip " in capsys.readouterr().err
    assert main(["tasks", str(tmp_path / "no.csv")]) == 2


def test_an_export_makes_its_folder(run, tmp_path, capsys):
    to = tmp_path / "new" / "folder" / "chains.parquet"
    assert main(["pool", "export", str(run), "--to", str(to)]) == 0
    assert to.is_file()
    assert main(["pool", "export", str(run), "--to", str(tmp_path / "chains.csv")]) == 2
    assert "--format csv" in capsys.readouterr().err


def test_a_budget_is_kept_and_said(tmp_path, model, capsys):
    # 3 problems, prompts of up to 128 tokens, 8 new tokens a chain: not all 12 fit in the worst case
    assert main(sample(tmp_path / "r", model, "--budget", "samples=5")) == 0
    captured = capsys.readouterr()
    assert "5/12 chains" in captured.out
    assert "budget was spent" in captured.err
    assert main(sample(tmp_path / "tight", model, "--budget", "tokens=3")) == 5
    assert "cannot pay for one chain" in capsys.readouterr().err


def test_a_recipe_and_flags_are_the_same_keys(tmp_path, model):
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'[sample]\nrun = "r"\ntask = "word:test"\nengine = "transformers:{model}"\nn = 7\n')
    options, _ = parse("sample", ["--config", str(recipe), "--seed", "3"])
    assert (options.run, options.n, options.seed) == ("r", 7, 3)
    recipe.write_text("[sample]\ntaks = 'word'\n")
    assert main(["sample", "r", "--config", str(recipe)]) == 2


def test_search_measures_after_choosing_and_stores_answers(run, model, capsys):
    arguments = ["search", str(run), "--task", "word:test:n=3", "--engine", f"transformers:{model}"]
    arguments += ["--max-new-tokens", "8", "--strategy", "majority:n=4"]
    assert main(arguments) == 0
    assert "accuracy" in capsys.readouterr().out
    rows = [json.loads(line) for line in (run / "solutions.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    assert all(row["samples"] == 4 and row["correct"] in (True, False) for row in rows)
    assert main(arguments) == 0  # the same strategy again replaces its rows
    assert len((run / "solutions.jsonl").read_text().splitlines()) == 3
    assert main(["search", "--list"]) == 0
    assert "adaptive" in capsys.readouterr().out


def test_the_resolved_configuration_is_saved(run):
    import tomllib

    saved = tomllib.loads((run / "run.toml").read_text())
    assert saved["sample"]["task"] == "word:test:n=3"
    assert saved["versions"]["reasoning-toolkit"]


def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys):
    from reasoning import cli

    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "dispatch", interrupted)
    assert main(["sample", "my run", "--task", "word:test"]) == 130
    assert "reasoning sample 'my run' --task word:test" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "status", "word"), [(15, 143, "Terminated"), (2, 130, "Interrupted")])
def test_a_signal_says_how_to_go_on_and_keeps_what_was_drawn(tmp_path, model, number, status, word):
    """SIGTERM as SIGINT, in a process of its own, once chains are there."""
    command = [sys.executable, "-m", "reasoning", "sample", "run", "--task", "word:test:n=400", "-n", "64"]
    command += ["--engine", f"transformers:{model}", "--max-new-tokens", "64"]
    heard = partial(signal.signal, number, signal.SIG_DFL)  # a shell's background jobs are deaf to SIGINT
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("run/pool/wal/*.wal")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == status, said
    assert f"{word}. Everything acknowledged so far is kept; to go on:  reasoning sample run" in said
    assert "Traceback" not in said


def test_a_signal_to_several_ranks_is_left_to_torchrun(monkeypatch):
    from reasoning.cli.ending import how_to_go_on, terminable

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray leaves a handler of its own in this process
    try:
        with terminable():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
    assert how_to_go_on(["train", "r"], []).endswith("the same torchrun command again")
    monkeypatch.setenv("RANK", "1")
    assert how_to_go_on(["train", "r"], []) == ""


def test_a_full_disk_is_one_line(monkeypatch, run, model, capsys):
    import errno

    from reasoning import durable

    def full(fd, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable.os, "write", full)
    assert main(sample(run, model, "-n", "8")) == 3
    monkeypatch.undo()
    err = capsys.readouterr().err
    assert "disk is full" in err
    assert main(sample(run, model, "-n", "8")) == 0
    assert "24/24 chains (12 were there)" in capsys.readouterr().out


def test_chains_of_a_search_that_stopped_early_do_not_tilt_the_curve(tmp_path, model, capsys):
    run = tmp_path / "run"
    common = ["--task", "word:test:n=3", "--engine", f"transformers:{model}", "--max-new-tokens", "8"]
    assert main(["search", str(run), *common, "--strategy", "majority:n=4"]) == 0
    assert main(["search", str(run), *common, "--task", "word:test:n=1", "--strategy", "majority:n=8"]) == 0
    assert main(["verify", str(run), "--verifier", "numeric"]) == 0
    capsys.readouterr()
    assert main(["curve", str(run)]) == 0
    assert "4 chains of" in capsys.readouterr().out
    content = json.loads((run / "curves.json").read_text())
    assert max(p["k"] for c in content["curves"] for p in c["points"]) == 4
    assert all(p["problems"] == 3 for c in content["curves"] if c["difficulty"] is None for p in c["points"])


def test_a_budget_that_was_spent_before_is_said(tmp_path, model, capsys):
    assert main(sample(tmp_path / "r", model, "--budget", "samples=5")) == 0
    assert main(sample(tmp_path / "r", model, "--budget", "samples=5")) == 5
    assert "the whole run" in capsys.readouterr().err


def test_two_learned_scorers_stand_side_by_side(run, tmp_path, capsys):
    code = tmp_path / "code.py"
    code.write_text(
        "from verifiers import Verdict\n\n\nclass Longest:\n    oracle = False\n    name = 'longest'\n\n"
        "    def verify(self, attempts):\n"
        "        return [Verdict(min(1.0, len(a.response) / 99)) for a in attempts]\n"
        "\n\nclass Shortest(Longest):\n    name = 'shortest:by=length'\n"
    )
    for name in ("numeric", f"{code}:Longest", f"{code}:Shortest"):
        assert main(["verify", str(run), "--verifier", name]) == 0
    assert main(["curve", str(run)]) == 0
    scorers = {c["scorer"] for c in json.loads((run / "curves.json").read_text())["curves"]}
    assert scorers == {"", "longest", "shortest:by=length"}


def test_debug_shows_the_traceback():
    with pytest.raises(Exception, match="Unknown command"):
        main(["smaple", "--debug"])


def test_doctor_speaks_of_this_machine(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "torch" in out
    assert out.strip().endswith("ok")


def test_it_runs_as_a_module_and_a_closed_pipe_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m reasoning --help | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    assert done.stdout.startswith("Train reasoning models")
    assert done.stderr == ""


def test_names_from_files_reach_the_terminal_without_markup_or_escapes(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"q": f"1+{i}", "a": str(1 + i), "r": [str(1 + i), "9"], "m": model}
        for i in range(4)
        for model in ("p[/b]", "llama[base] 7b", "x\x1b[31m\x07y")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = str(tmp_path / "r")
    mapping = "question=q,answer=a,response=r[],model=m"
    assert main(["import", str(path), run, "--map", mapping, "--verifier", "numeric"]) == 0
    assert main(["curve", run, "--verifier", "numeric"]) == 0
    said = capsys.readouterr()
    assert "p[/b]" in said.out
    assert "llama[base] 7b" in said.out
    assert "x?[31m?y" in said.out
    assert "\x1b" not in said.out + said.err
    assert "\x07" not in said.out + said.err


def say_one_line(arguments, words, capsys):
    capsys.readouterr()
    assert main(arguments) == 2
    err = capsys.readouterr().err.strip()
    assert words in err.splitlines()[-1]  # above it a library's bar may be, of loading a model
    assert "Traceback" not in err


def test_damaged_files_of_a_run_are_one_line(run, model, tmp_path, capsys):
    search = ["search", str(run), "--task", "word:test:n=3", "--engine", f"transformers:{model}"]
    search += ["--strategy", "majority:n=4", "--max-new-tokens", "8"]
    (run / "solutions.jsonl").write_text('{"strategy": "majority:n=4", "mod')
    say_one_line(search, "solutions.jsonl, line 1", capsys)
    (run / "solutions.jsonl").unlink()
    (run / "run.toml").write_bytes(b"\xff\xfe[sample]")
    say_one_line(["curve", str(run)], "run.toml: not a TOML file", capsys)

    (tmp_path / "copy").mkdir()
    for path in model.iterdir():
        (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
    for text in ('{"flops": 1', "[]"):
        (tmp_path / "copy" / "training.json").write_text(text)
        say_one_line(sample(tmp_path / "other", tmp_path / "copy"), "training.json: not ", capsys)


def test_recipes_that_are_none_are_one_line(run, tmp_path, capsys):
    (tmp_path / "binary").write_bytes(b"\xff\x00\xfe")
    say_one_line(["demo", str(run), "--recipe", str(tmp_path / "binary")], "not a TOML file", capsys)
    (tmp_path / "quote.toml").write_text('[[step]]\ncommand = "train \'"\n')
    say_one_line(["demo", str(run), "--recipe", str(tmp_path / "quote.toml")], "not a recipe", capsys)
    say_one_line(["curve", str(run), "--config", "a\0b"], "no such recipe", capsys)


def test_a_closed_standard_input_is_said():
    command = f"exec {sys.executable} -m reasoning verify - --verifier numeric <&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == "Standard input is closed: pipe rows into it, or name a JSONL file."


def test_a_locale_without_the_sign_still_gets_the_table(tmp_path):
    rows = tmp_path / "rows.jsonl"
    texts = [
        json.dumps({"q": f"1+{i}", "a": str(1 + i), "r": [str(1 + i), str(i % 2 + 1)]}) for i in range(6)
    ]
    rows.write_text("\n".join(texts))
    run, mapping = str(tmp_path / "r"), "question=q,answer=a,response=r[]"
    assert main(["import", str(rows), run, "--map", mapping, "--verifier", "numeric"]) == 0
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "reasoning", "curve", run]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert b"pass@1" in done.stdout
    assert done.stdout.isascii()


def test_an_import_names_a_command_that_works(run, tmp_path, capsys):
    def next_after(rows, folder):
        assert (
            main(["import", str(rows), str(folder), *(["--map", "question=q,answer=a,response=r"] * plain)])
            == 0
        )
        return capsys.readouterr().err.split("Next:  reasoning ")[-1].split()

    rows, plain = tmp_path / "rows.jsonl", False
    assert main(["pool", "export", str(run), "--to", str(rows)]) == 0
    capsys.readouterr()
    assert next_after(rows, tmp_path / "unjudged") == [
        "verify",
        str(tmp_path / "unjudged"),
        "--verifier",
        "NAME",
    ]
    assert main(["verify", str(run), "--verifier", "numeric"]) == 0
    judged = tmp_path / "judged.jsonl"
    assert main(["pool", "export", str(run), "--to", str(judged)]) == 0
    capsys.readouterr()
    command = next_after(judged, tmp_path / "judged")
    assert command == ["curve", str(tmp_path / "judged"), "--verifier", "numeric"]
    assert main(command) == 0
    plain, outputs = True, tmp_path / "outputs.jsonl"
    outputs.write_text('{"q": "1+1?", "a": "2", "r": "2"}\n')
    assert next_after(outputs, tmp_path / "plain")[0] == "verify"


def test_more_chains_than_memory_holds_are_refused_at_once(tmp_path, model, capsys):
    assert main(sample(tmp_path / "r", model, "-n", "100000000")) == 2
    assert "3 problems is 300,000,000 chains" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_greedy_chains_drawn_many_times_are_said(tmp_path, model, capsys):
    assert main(sample(tmp_path / "r", model, "--temperature", "0")) == 0
    assert "Give -n 1" in capsys.readouterr().err
    assert main(sample(tmp_path / "one", model, "--temperature", "0", "-n", "1")) == 0
    assert "Give -n 1" not in capsys.readouterr().err


def test_a_file_as_run_is_said_before_the_model_is_loaded(tmp_path, capsys):
    (tmp_path / "run").write_text("")
    args = ["sample", str(tmp_path / "run"), "--task", "word:test:n=1", "--engine", "transformers:nowhere"]
    assert main(args) == 2
    assert "is a file; RUN is a folder" in capsys.readouterr().err


def test_an_engine_without_a_model_and_with_a_mistyped_option(tmp_path, capsys):
    args = ["sample", str(tmp_path / "run"), "--task", "word:test:n=1", "--engine"]
    assert main([*args, "openai:"]) == 2
    assert "write openai:MODEL." in capsys.readouterr().err
    assert main([*args, "openai:m:paralel=3"]) == 2
    assert "Unknown 'openai' option 'paralel'. Did you mean 'parallel'?" in capsys.readouterr().err


def test_a_mistyped_verifier_of_a_file_is_said_before_chains_are_drawn(tmp_path, capsys):
    (tmp_path / "mine.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n')
    task = f"jsonl:{tmp_path}/mine.jsonl:verifier=nmeric"
    args = ["sample", str(tmp_path / "run"), "--task", task, "--engine", "transformers:nowhere"]
    assert main(args) == 2
    assert "Unknown verifier 'nmeric'. Did you mean 'numeric'?" in capsys.readouterr().err
