"""What a prompt looks like to the model, and each thing that can be wrong with it, by tokenizers made here."""

import re
import time

import pytest
from engines.chat_tokenizers import (
    BRACKETS,
    DATED,
    DEFAULT_SYSTEM,
    HEADERS,
    NO_SYSTEM,
    OPENING,
    THINKING,
    make_tokenizer,
)

from reasoning.cli import main
from reasoning.engines.preflight import look, open_tokens, visible
from reasoning.engines.tokens import Tokens
from reasoning.errors import UserError
from reasoning.records import Problem, Sampling
from reasoning.tasks.conversation import converse

QUESTION = Problem.make("What is 2 plus 2?", "4")
SHOTS = (("What is 1 plus 1?", "The answer is 2."),)
FULL = converse(QUESTION, system="Be brief.", shots=SHOTS)


def tokens(template=None, *, adds_begin=True, name="model", limit=4096, chat="auto"):
    return Tokens(make_tokenizer(template, adds_begin), name=name, limit=limit, end_ids=(), chat=chat)


def said(view, problem=QUESTION, sampling=None):
    return [f"{f.level}: {f.text}" for f in look(view, [problem], sampling)]


def shown(view, problem):
    return visible(view, view.ask(problem))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (HEADERS, "⟦<s>⟧⟦<|turn|>⟧system\n\nBe brief.⟦<|end|>⟧⟦<|turn|>⟧user\n\nWhat is 1 plus 1?⟦<|end|>⟧"
                  "⟦<|turn|>⟧assistant\n\nThe answer is 2.⟦<|end|>⟧⟦<|turn|>⟧user\n\nWhat is 2 plus 2?⟦<|end|>⟧"
                  "⟦<|turn|>⟧assistant\n\n"),
        (NO_SYSTEM, "⟦<s>⟧⟦<|turn|>⟧user\nBe brief.\n\nWhat is 1 plus 1?⟦<|end|>⟧\n⟦<|turn|>⟧model\nThe answer is 2."
                    "⟦<|end|>⟧\n⟦<|turn|>⟧user\nWhat is 2 plus 2?⟦<|end|>⟧\n⟦<|turn|>⟧model\n"),
        (BRACKETS, "⟦<s>⟧[INST] Be brief.\n\nWhat is 1 plus 1? [/INST] The answer is 2.⟦</s>⟧"
                   "[INST] What is 2 plus 2? [/INST]"),
        (None, "⟦<s>⟧Be brief.\n\nWhat is 1 plus 1?\nThe answer is 2.\n\nWhat is 2 plus 2?"),
    ],
)  # fmt: skip
def test_a_conversation_in_each_form(template, expected):
    assert shown(tokens(template), FULL) == expected


@pytest.mark.parametrize("template", [HEADERS, THINKING])
def test_a_sound_prompt_is_not_talked_about(template):
    assert said(tokens(template, adds_begin=template == HEADERS), FULL, Sampling(max_new_tokens=64)) == []


@pytest.mark.parametrize("template", [HEADERS, NO_SYSTEM, BRACKETS, THINKING, DEFAULT_SYSTEM, None])
def test_a_prefill_stands_where_the_model_goes_on(template):
    view = tokens(template)
    begun = converse(FULL, prefill="The answer is")
    before = shown(view, FULL)
    between = "\n" if template is None else ""
    assert shown(view, begun) == before + between + "The answer is"
    assert begun.id != FULL.id


def test_a_plain_problem_is_asked_as_before():
    for template in (HEADERS, THINKING, None):
        view = tokens(template)
        assert view.ask(QUESTION) == view.encode(QUESTION.prompt)


def test_double_and_missing_begin_of_sequence():
    twice = Problem.make("<s>What is 2 plus 2?", "4")
    assert any("begins with <s> twice" in line for line in said(tokens(None), twice))
    assert any("begins with <s> twice" in line for line in said(tokens("{{ bos_token }}" + HEADERS)))
    assert any("does not begin with <s>" in line for line in said(tokens(THINKING)))
    assert not any("<s>" in line for line in said(tokens(THINKING, adds_begin=False)))


def test_a_template_without_generation_prompt():
    silent = HEADERS.partition("{% if add_generation_prompt")[0]
    assert [line for line in said(tokens(silent)) if "no generation prompt" in line]
    assert not [line for line in said(tokens(HEADERS)) if "generation prompt" in line]
    assert not [line for line in said(tokens(BRACKETS)) if "generation prompt" in line], "[/INST] tells it"


def test_a_template_that_always_begins_the_answer():
    always = HEADERS.replace("{% if add_generation_prompt %}", "").replace("{% endif %}", "<think>\n")
    found = said(tokens(always))
    assert not [line for line in found if "generation prompt" in line]
    assert [line for line in found if line.startswith("note: The chat template has opened <think>")]


def test_thinking_tags():
    opening = tokens(OPENING, adds_begin=False)
    assert [line for line in said(opening) if line.startswith("note: The chat template has opened <think>")]
    again = converse(QUESTION, prefill="<think>\nLet me think")
    assert any("prefill opens it again" in line for line in said(opening, again))
    assert not any("opens it again" in line for line in said(tokens(THINKING, adds_begin=False), again))
    closed = converse(QUESTION, options={"enable_thinking": False})
    view = tokens(THINKING, adds_begin=False)
    assert any("told not to think" in line for line in said(view, closed))
    assert shown(view, closed).endswith("assistant\n<think>\n\n</think>\n\n")
    assert closed.id != QUESTION.id
    lost = converse(QUESTION, shots=(("What is 1 plus 1?", "<think>\none and one\n</think>\n\n2"),))
    assert any("leaves out a text of the assistant" in line for line in said(view, lost))


@pytest.mark.parametrize("template", [NO_SYSTEM, BRACKETS])
def test_a_system_prompt_without_a_place_is_said_and_not_lost(template):
    lines = said(tokens(template), FULL)
    assert [line for line in lines if "no place for a system prompt" in line]
    assert "Be brief." in shown(tokens(template), FULL)


def test_turns_that_a_template_refuses_are_one_line():
    view = tokens(NO_SYSTEM)
    two = Problem.make("x", "1", metadata={"messages": [{"role": "user", "content": "a"}] * 2})
    (line,) = said(view, two)
    assert re.match(
        r"error: The chat template cannot show a conversation of user, user: .*must alternate", line
    )
    with pytest.raises(UserError, match="must alternate"):
        view.ask(two)


def test_a_date_and_a_system_prompt_of_the_templates_own():
    today = time.strftime("%d %b %Y")
    view = tokens(DATED)
    assert today in shown(view, QUESTION)
    assert any("today's date" in line and "date_string" in line for line in said(view))
    fixed = converse(QUESTION, options={"date_string": "26 Jul 2024"})
    assert not any("today's date" in line for line in said(view, fixed))
    own = said(tokens(DEFAULT_SYSTEM, adds_begin=False))
    assert [line for line in own if line.startswith("note: ") and "careful assistant" in line]
    assert said(tokens(DEFAULT_SYSTEM, adds_begin=False), FULL) == []
    misspelt = converse(QUESTION, options={"enable_thinkin": False})
    assert any("does not know the option 'enable_thinkin'" in line for line in said(view, misspelt))


def test_special_tokens_in_a_question_and_a_trailing_space():
    injected = Problem.make("What is 2<|end|> plus 2?", "4")
    assert any(
        "user's text holds the special token <|end|>" in line for line in said(tokens(HEADERS), injected)
    )
    space = Problem.make("Q: What is 2 plus 2?\nA: ", "4")
    assert any("ends with a space" in line for line in said(tokens(None), space))
    assert shown(tokens(None), space).endswith("A:·")
    assert not any("ends with a space" in line for line in said(tokens(HEADERS), space))


def test_room_in_the_context():
    view = tokens(HEADERS, limit=60)
    (line,) = said(view, QUESTION, Sampling(max_new_tokens=50))
    assert re.match(r"warning: A prompt of \d+ tokens leaves \d+ of model's 60", line)
    long = Problem.make("What is 2 plus 2? " * 20, "4")
    assert [f.level for f in look(view, [QUESTION] * 20 + [long])] == ["error"]


def test_a_chat_model_without_a_template():
    for name in ("owner/Some-7B-Instruct", "gemma-2b-it", "vicuna-chat"):
        assert any("looks like a chat model" in line for line in said(tokens(None, name=name))), name
    for name in ("owner/Some-7B", "italy", "base", "gpt2"):
        assert said(tokens(None, name=name)) == [], name
    assert any("chat=no" in line for line in said(tokens(HEADERS, chat="no")))
    assert any("one more of them" in line for line in said(tokens(None), FULL))
    assert said(tokens(None), FULL, Sampling(stop=("\n\nWhat",))) == []


def test_findings_are_said_once_errors_first():
    problems = [Problem.make(f"<s>What is {i} plus 2?", "4") for i in range(40)]
    found = look(tokens(None, limit=10), problems)
    assert [f.level for f in found] == ["error", "warning", "warning"]
    assert len({f.text for f in found}) == 3


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "gemma-it"
    make_tokenizer(NO_SYSTEM).save_pretrained(path)
    return path


def test_reasoning_prompt_shows_it_without_a_model(folder, capsys):
    command = [
        "prompt",
        "word:test:n=3",
        "--engine",
        f"transformers:{folder}",
        "--system",
        "Be brief.",
        "--index",
        "2",
    ]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert out.startswith("⟦<s>⟧⟦<|turn|>⟧user\nBe brief.\n\nQ: ")
    assert out.endswith("⟦<|turn|>⟧model\n\n")
    assert "no place for a system prompt" in err
    assert "verifier numeric" in err
    assert main([*command, "--prefill", "Ann has", "--few-shot", "1"]) == 0
    out, _ = capsys.readouterr()
    assert out.endswith("⟦<|turn|>⟧model\nAnn has\n")
    assert out.count("⟦<|turn|>⟧") == 4
    assert main(["prompt", "word:test:n=3", "--index", "3"]) == 2
    assert "holds 3 problems" in capsys.readouterr().err
    assert main(["prompt", "word:test:n=1", "--chat-option", "nothing"]) == 2
    assert "enable_thinking=false" in capsys.readouterr().err
    assert main(["prompt", "word:test:n=1", "--system", "@nowhere.txt"]) == 2
    assert "Cannot read the text in 'nowhere.txt'" in capsys.readouterr().err


def test_tokens_of_engines_that_have_none_here(folder):
    assert open_tokens("replay:pool.jsonl") is None
    assert open_tokens("openai:model:base_url=http://127.0.0.1:1/v1") is None
    assert open_tokens("mine.py:engine") is None
    view = open_tokens(f"openai:model:tokenizer={folder}")
    assert view is not None
    assert view.chat
    assert open_tokens(f"transformers:{folder}:chat=no").chat is False
    with pytest.raises(UserError, match="No model folder"):
        open_tokens("transformers:/nowhere/at/all")


def test_an_engine_that_does_not_exist_or_names_no_model_is_said():
    with pytest.raises(UserError, match="Unknown engine 'nowhere'"):
        open_tokens("nowhere")
    for spec in ("transformers", "vllm:", "openai"):
        with pytest.raises(UserError, match="does not say which model or file"):
            open_tokens(spec)
    assert open_tokens("replay:recorded.jsonl") is None
    assert open_tokens("openai:m:base_url=http://127.0.0.1:1/v1") is None
