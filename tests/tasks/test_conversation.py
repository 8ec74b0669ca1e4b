"""Problems as conversations: what is asked enters the identity, and what starts the answer is judged with it."""

import json

import pytest

from reasoning.cli import main
from reasoning.errors import UserError
from reasoning.pool import Pool
from reasoning.records import Chain, Problem
from reasoning.sampling import attempt
from reasoning.tasks import load_problems
from reasoning.tasks.conversation import as_text, check_messages, converse, messages_of, start_of_answer
from verifiers import open_verifier

PROBLEM = Problem.make("What is 2+2?", "4", "sums")


def test_every_part_of_a_conversation_is_part_of_the_id():
    asked = [
        PROBLEM,
        converse(PROBLEM, system="Be brief."),
        converse(PROBLEM, system="Be brief"),
        converse(PROBLEM, shots=[("What is 1+1?", "2")]),
        converse(PROBLEM, shots=[("What is 1+1?", "two")]),
        converse(PROBLEM, prefill="2"),
        converse(PROBLEM, options={"enable_thinking": False}),
        converse(PROBLEM, options={"enable_thinking": True}),
        converse(PROBLEM, system="What is 1+1?\n2"),
    ]
    assert len({p.id for p in asked}) == len(asked)
    assert {p.question for p in asked} == {PROBLEM.question}
    assert {p.fingerprint for p in asked} == {PROBLEM.fingerprint}
    assert {(p.reference, p.task) for p in asked} == {("4", "sums")}
    assert converse(PROBLEM) is PROBLEM
    assert converse(PROBLEM, system="Be brief.") == asked[1]


def test_a_system_prompt_takes_the_place_of_the_data_sets_own():
    first = converse(PROBLEM, system="Be long.")
    again = converse(first, system="Be brief.", shots=[("1+1?", "2")], prefill="It")
    assert [(m["role"], m["content"]) for m in messages_of(again)] == [
        ("system", "Be brief."),
        ("user", "1+1?"),
        ("assistant", "2"),
        ("user", "What is 2+2?"),
        ("assistant", "It"),
    ]
    assert again.prompt == "Be brief.\n\n1+1?\n2\n\nWhat is 2+2?\nIt"
    with pytest.raises(UserError, match="cannot be prefilled again"):
        converse(again, prefill="x")


def test_plain_text_leaves_no_space_at_the_end():
    asked = Problem.make("Q: 2+2?\nA:", "4")
    assert as_text(messages_of(converse(asked, prefill="It is"))) == "Q: 2+2?\nA: It is"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("no list", "not a list of messages"),
        ([], "not a list of messages"),
        ([{"role": "user"}], "message 1 is not an object"),
        ([{"role": "tool", "content": "x"}], "has the role 'tool'"),
        ([{"role": "user", "content": "x"}, {"role": "system", "content": "x"}], "no question of a user"),
        ([{"role": "system", "content": "x"}], "no question of a user"),
    ],
)
def test_messages_of_a_data_set_are_checked(value, words):
    with pytest.raises(UserError, match=words):
        check_messages(value, "data.jsonl, line 1")


def test_a_column_of_messages(tmp_path):
    path = tmp_path / "data.jsonl"
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
    path.write_text(json.dumps({"prompt": messages, "gold": "4"}) + "\n")
    (problem,) = load_problems(f"{path}:prompt=prompt,reference=gold")
    assert messages_of(problem) == messages
    assert (problem.question, problem.reference) == ("2+2?", "4")
    path.write_text(json.dumps({"prompt": [{"role": "robot", "content": "x"}], "gold": "4"}) + "\n")
    with pytest.raises(UserError, match="line 1, column 'prompt': message 1 has the role 'robot'"):
        load_problems(f"{path}:prompt=prompt,reference=gold")


def test_a_prefill_is_judged_as_part_of_the_response():
    problem = converse(PROBLEM, prefill="So \\boxed{")
    assert start_of_answer(problem) == "So \\boxed{"
    chain = Chain(problem.id, 0, "4}.")
    shown = attempt(chain, problem, oracle=True)
    assert (shown.prompt, shown.response) == ("What is 2+2?", "So \\boxed{4}.")
    assert open_verifier("numeric").verify([shown])[0].correct
    plain = attempt(Chain(PROBLEM.id, 0, "4"), PROBLEM, oracle=False)
    assert (plain.prompt, plain.response, plain.reference) == ("What is 2+2?", "4", None)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of random weights with a chat template, in a folder."""
    import torch
    from engines.chat_tokenizers import NO_SYSTEM, make_tokenizer
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer(NO_SYSTEM)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_runs_with_other_words_around_the_question_share_no_chain(model, tmp_path, capsys):
    common = ["sample", str(tmp_path / "run"), "--task", "word:test:n=2", "--engine", f"transformers:{model}"]
    common += ["-n", "2", "--max-new-tokens", "4"]
    parts = [[], ["--system", "Be brief."], ["--few-shot", "1"], ["--prefill", "Ann"], ["--few-shot", "2"]]
    for number, part in enumerate(parts, 1):
        for again in (False, True):
            assert main([*common, *part]) == 0
            out, err = capsys.readouterr()
            assert ("4 were there" if again else "0 were there") in out
            assert ("no place for a system prompt" in err) == ("--system" in part)
        with Pool.open(tmp_path / "run") as pool:
            chains = pool.chains()
            assert len({c.key for c in chains}) == len(chains) == 4 * number
    assert len({c.prompt_token_ids for c in chains}) == 2 * len(parts)


def test_search_takes_the_same_options(model, tmp_path, capsys):
    run = ["search", str(tmp_path / "run"), "--task", "word:test:n=1", "--engine", f"transformers:{model}"]
    run += ["--strategy", "majority:n=2", "--max-new-tokens", "4", "--prefill", "The answer is 7.\n"]
    assert main(run) == 0
    assert "accuracy" in capsys.readouterr().out
    row = json.loads((tmp_path / "run" / "solutions.jsonl").read_text())
    (problem,) = load_problems("word:test:n=1", prefill="The answer is 7.\n")
    assert (row["problem_id"], row["samples"]) == (problem.id, 2)


def test_a_system_prompt_from_a_file_and_in_the_spec(tmp_path):
    path = tmp_path / "system.txt"
    path.write_text("Be brief, and kind.\n")
    (a,) = load_problems(f"word:test:n=1,system=@{path}")
    (b,) = load_problems("word:test:n=1", system="Be brief, and kind.")
    assert a == b
    with pytest.raises(UserError, match="given twice"):
        load_problems("word:test:n=1,system=x", system="y")
