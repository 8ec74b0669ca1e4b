"""The engine 'openai' on a server on loopback: what is asked for, what answers mean, what they cost."""

import json
import time
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai_fake import PLAIN, PROBLEMS, FakeServer, broken_usage, completion, draws, total

from reasoning.budget import Budget, Ledger
from reasoning.engines import Engine, open_engine
from reasoning.errors import ReasoningError, UserError
from reasoning.pool import Pool
from reasoning.records import Cost, Draw, Problem, Sampling, chain_key
from reasoning.sampling import sample
from reasoning.tasks.conversation import converse
from verifiers.judging import most_tokens

# --- what is asked for comes back -------------------------------------------------------------------------


def test_every_index_comes_back_once_with_what_it_cost(fake, opened):
    engine = opened(fake)
    assert isinstance(engine, Engine)
    assert engine.model == f"m@{fake.url[7:-3]}"
    asked = draws()
    chains = list(engine.generate(asked))
    assert sorted((c.problem_id, c.index) for c in chains) == sorted(
        (d.problem.id, i) for d in asked for i in d.indices
    )
    for chain in chains:
        problem = next(p for p in PROBLEMS if p.id == chain.problem_id)
        assert chain.key == chain_key(engine.model, PLAIN, problem.id, problem.prompt, chain.index)
        assert (chain.finish_reason, chain.sampling, chain.model) == ("stop", PLAIN, engine.model)
        assert chain.cost == Cost(prompt_tokens=len(problem.prompt.split()) + 4, output_tokens=4)
        assert len(chain.text.split()) == 4
    assert list(engine.generate([])) == []
    assert engine.unfinished() == []
    seeds = {a.body["seed"] for a in fake.asked}
    assert len(seeds) == len(fake.asked) == 12
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_same_chain_same_seed_whatever_it_is_drawn_with(fake, opened):
    engine = opened(fake)
    together = {c.key: c.text for c in engine.generate(draws())}
    (alone,) = engine.generate([replace(draws()[2], indices=(1,))])
    assert alone.text == together[alone.key]


def test_chains_arrive_as_they_finish(fake, opened):
    def slow_first(asked):
        if asked.text == PROBLEMS[0].prompt:
            time.sleep(0.6)
        return completion(asked)

    fake.answer = slow_first
    arrived = [c.problem_id for c in opened(fake).generate(draws(4, 1))]
    assert arrived[-1] == PROBLEMS[0].id


def test_no_more_requests_than_allowed_are_in_flight(fake, opened):
    def slow(asked):
        time.sleep(0.05)
        return completion(asked)

    fake.answer = slow
    assert len(list(opened(fake, "parallel=3").generate(draws()))) == 12
    assert fake.most_in_flight == 3


def test_completion_form_shows_the_prompt_as_text(fake, opened):
    engine = opened(fake, "form=completion")
    (chain,) = engine.generate(draws(1, 1))
    assert fake.asked[0].path == "/v1/completions"
    assert fake.asked[0].body["prompt"] == PROBLEMS[0].prompt
    assert len(chain.text.split()) == 4
    assert engine.model.endswith(
        "/completion"
    )  # other prompts, other chains: never in one pool under one name


def test_a_conversation_is_shown_as_such(fake, opened):
    problem = converse(PROBLEMS[0], system="Be brief.", shots=[("1+1?", "2")])
    list(opened(fake).generate([Draw(problem, PLAIN)]))
    assert [m["role"] for m in fake.asked[0].body["messages"]] == ["system", "user", "assistant", "user"]
    begun = converse(PROBLEMS[0], prefill="It is")
    with pytest.raises(UserError, match="does not continue an answer"):
        list(opened(fake).generate([Draw(begun, PLAIN)]))
    fake.owner = "vllm"
    list(opened(fake).generate([Draw(begun, PLAIN)]))
    assert fake.asked[-1].body["continue_final_message"] is True
    assert fake.asked[-1].body["add_generation_prompt"] is False


@pytest.mark.parametrize("owner", ["someone", "vllm", "sglang", "llamacpp"])
def test_the_sampling_is_what_was_asked_for_whatever_the_server_prefers(fake, opened, owner):
    fake.owner = owner
    engine = opened(fake)
    list(engine.generate([Draw(PROBLEMS[0], PLAIN)]))
    body = fake.asked[0].body
    assert (body["temperature"], body["top_p"], body["max_tokens"], body["model"]) == (1.0, 1.0, 8, "m")
    off = {"someone": None, "vllm": -1, "sglang": -1, "llamacpp": 0}[owner]
    assert body.get("top_k") == off
    assert body.get("min_p") == (None if owner == "someone" else 0)
    assert body.get("repeat_penalty" if owner == "llamacpp" else "repetition_penalty") == (
        None if owner == "someone" else 1
    )
    list(engine.generate([Draw(PROBLEMS[0], Sampling(0.5, 0.9, 7, 8, ("END",)))]))
    body = fake.asked[1].body
    assert (body["temperature"], body["top_p"], body["top_k"], body["stop"]) == (0.5, 0.9, 7, ["END"])
    list(engine.generate([Draw(PROBLEMS[0], Sampling(0, 0.9, 7, 8))]))
    body = fake.asked[2].body
    assert (body["temperature"], body["top_p"], body.get("top_k")) == (0, 1.0, off)


def test_openai_gets_its_own_fields_only(fake, opened):
    engine = opened(fake, "server=openai")
    list(engine.generate([Draw(PROBLEMS[0], PLAIN)]))
    assert set(fake.asked[0].body) == {"model", "messages", "max_completion_tokens", "seed"}
    with pytest.raises(UserError, match="no top-k"):
        list(engine.generate([Draw(PROBLEMS[0], replace(PLAIN, top_k=5))]))
    with pytest.raises(UserError, match="no top-k"):
        engine.worst_case(Draw(PROBLEMS[0], replace(PLAIN, top_k=5)))


def test_further_fields_come_from_a_file_and_name_the_model(fake, opened, tmp_path):
    file = tmp_path / "extra.json"
    file.write_text('{"reasoning_effort": "low"}')
    engine = opened(fake, f"extra={file}")
    list(engine.generate([Draw(PROBLEMS[0], PLAIN)]))
    assert fake.asked[0].body["reasoning_effort"] == "low"
    assert engine.model.startswith(opened(fake).model + "/")
    for text, said in (
        ('{"seed": 1}', "set by the engine"),
        ('{"api_key": "sk-1"}', "key_env"),
        ("[1]", "JSON object"),
        ("{", "JSON object"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=said):
            opened(fake, f"extra={file}")


# --- several chains a request -----------------------------------------------------------------------------


def test_several_chains_a_request_share_the_prompt(fake, opened):
    engine = opened(fake, "chains_per_request=4")
    chains = list(engine.generate(draws(1, 6)))
    assert sorted(c.index for c in chains) == list(range(6))
    assert [a.body.get("n") for a in fake.asked] == [4, 2]
    prompt = len(PROBLEMS[0].prompt.split()) + 4
    assert total(chains) == Cost(prompt_tokens=2 * prompt, cached_tokens=4 * prompt, output_tokens=24)
    list(engine.generate(draws(1, 2, Sampling(0, max_new_tokens=8))))
    assert all("n" not in a.body for a in fake.asked[2:])  # servers refuse several greedy chains


def test_a_server_that_knows_no_n_is_asked_again(fake, opened):
    def answer(asked):
        seen, asked.body = asked.body, {k: v for k, v in asked.body.items() if k != "n"}
        data, asked.body = completion(asked), seen
        return data

    fake.answer = answer
    chains = list(opened(fake, "chains_per_request=4").generate(draws(1, 4)))
    assert sorted(c.index for c in chains) == [0, 1, 2, 3]
    assert [a.body.get("n") for a in fake.asked] == [4, None, None, None]


# --- answers ----------------------------------------------------------------------------------------------


def answered(fake, opened, choice=None, options="", sampling=PLAIN, **changes):
    """The chain of an answer whose only choice has the given parts."""

    def answer(asked):
        data = completion(asked, **changes)
        data["choices"][0] |= choice or {}
        return data

    fake.answer = answer
    (chain,) = opened(fake, options).generate([Draw(PROBLEMS[0], sampling)])
    return chain


def test_reasoning_is_kept_with_the_text(fake, opened):
    for name in ("reasoning_content", "reasoning"):
        message = {"content": "It is 4.", name: "2 and 2"}
        assert answered(fake, opened, {"message": message}).text == "<think>2 and 2</think>It is 4."
    cut = {"message": {"content": None, "reasoning": "2 and"}, "finish_reason": "length"}
    chain = answered(fake, opened, cut)
    assert (chain.text, chain.finish_reason, chain.truncated) == ("<think>2 and", "length", True)
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "4"},
    ]
    assert answered(fake, opened, {"message": {"content": parts}}).text == "<think>hm</think>4"
    assert (
        answered(fake, opened, {"message": {"content": None, "refusal": "I will not."}}).text == "I will not."
    )
    assert answered(fake, opened, {"message": {"content": "a\ud800b"}}).text == "a?b"


def test_usage_is_the_servers(fake, opened):
    usage = {
        "prompt_tokens": 20,
        "completion_tokens": 5,
        "total_tokens": 25,
        "prompt_tokens_details": {"cached_tokens": 16},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    assert answered(fake, opened, usage=usage).cost == Cost(4, 16, 5)
    apart = {"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 25}  # reasoning only in the total
    assert answered(fake, opened, usage=apart).cost == Cost(20, 0, 5)
    hits = {"prompt_tokens": 20, "completion_tokens": 2, "prompt_cache_hit_tokens": 7}
    assert answered(fake, opened, usage=hits).cost == Cost(13, 7, 2)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}])
def test_without_usage_the_count_is_never_too_low(fake, opened, usage):
    cost = answered(fake, opened, {"message": {"content": "né"}}, usage=usage).cost
    bound = len(PROBLEMS[0].prompt) + 16 + 1024
    assert cost == Cost(prompt_tokens=bound, output_tokens=5)  # 4 bytes at most, and the end
    assert answered(fake, opened, {"message": {"content": "x" * 99}}, usage=usage).cost.output_tokens == 8
    assert answered(fake, opened, {"finish_reason": "length"}, usage=usage).cost.output_tokens == 8
    told = {"logprobs": {"content": [{"token": "n", "logprob": -0.5}, {"token": "é", "logprob": -0.25}]}}
    assert answered(fake, opened, told, "logprobs=keep", usage=usage).cost.output_tokens == 2


def test_logprobs_and_ids_in_the_forms_of_many_servers(fake, opened):
    content = [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -0.25}]
    forms = [
        ({"logprobs": {"content": content}}, (), (-0.5, -0.25)),
        ({"logprobs": {"content": content}, "token_ids": [7, 8]}, (7, 8), (-0.5, -0.25)),
        ({"logprobs": {"content": content}, "token_ids": [7, 8, 9]}, (7, 8, 9), ()),
        ({"token_ids": [7, 8]}, (7, 8), ()),
        ({"logprobs": {"content": [c | {"id": i} for i, c in enumerate(content)]}}, (0, 1), (-0.5, -0.25)),
        (
            {"logprobs": {"tokens": ["token_id:5", "token_id:6"], "token_logprobs": [-1, 0]}},
            (5, 6),
            (-1.0, 0.0),
        ),
        ({"logprobs": {"tokens": ["x", "y"], "token_logprobs": [-1, -2]}}, (), (-1.0, -2.0)),
        ({"logprobs": {"content": [{"token": "a", "logprob": None}]}}, (), ()),
        ({"logprobs": {"content": [{"token": "a", "logprob": float("nan")}]}}, (), ()),
        ({"logprobs": {"content": [None]}}, (), ()),
        ({"logprobs": [1], "token_ids": ["x"]}, (), ()),
    ]
    for choice, ids, logprobs in forms:
        chain = answered(fake, opened, choice, "logprobs=keep")
        assert (chain.token_ids, chain.logprobs) == (ids, logprobs), choice


def test_logprobs_are_those_of_the_distribution_sampled_from_or_none(fake, opened):
    fake.owner = "vllm"
    told = {"logprobs": {"content": [{"token": "a", "logprob": -0.5}]}}
    for sampling, options, kept in (
        (PLAIN, "", True),
        (replace(PLAIN, temperature=0), "", True),
        (replace(PLAIN, temperature=0.6), "", False),
        (replace(PLAIN, top_p=0.9), "", False),
        (replace(PLAIN, temperature=0.6), "logprobs=keep", True),
        (PLAIN, "logprobs=no", False),
    ):
        chain = answered(fake, opened, told, options, sampling)
        assert bool(chain.logprobs) == kept == bool(fake.asked[-1].body.get("logprobs"))


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("stop", "stop"),
        ("eos", "stop"),
        ("content_filter", "stop"),
        ("length", "length"),
        ("max_tokens", "length"),
    ],
)
def test_finish_reasons(fake, opened, reason, finish):
    assert answered(fake, opened, {"finish_reason": reason}).finish_reason == finish


def test_a_finish_reason_left_out_is_told_by_the_length(fake, opened):
    assert answered(fake, opened, {"finish_reason": None}).finish_reason == "stop"
    full = {"prompt_tokens": 9, "completion_tokens": 8}
    assert answered(fake, opened, {"finish_reason": None}, usage=full).finish_reason == "length"


# --- the worst case ---------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_bytes_bound_the_tokens_of_any_tokenizer_that_splits_text(text):
    import unicodedata

    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert most_tokens(text) >= len(unicodedata.normalize(form, text).encode("utf-8", "replace"))


def test_the_server_counts_the_prompt_where_it_can(fake, opened):
    fake.owner, fake.limits = "vllm", {"max_model_len": 30}
    counted = []

    def tokenize(asked):
        counted.append(asked.body)
        return {"tokens": list(range(sum(len(m["content"].split()) for m in asked.body["messages"])))}

    fake.others["/tokenize"] = tokenize
    engine = opened(fake)
    draw = Draw(Problem.make("a b c d e", None), PLAIN, (0, 1))
    assert engine.worst_case(draw) == Cost(prompt_tokens=10, output_tokens=16)
    assert engine.worst_case(draw) == Cost(prompt_tokens=10, output_tokens=16)
    assert len(counted) == 1
    assert engine.encode("x y z") == (0, 1, 2)
    long = Draw(Problem.make("a " * 25, None), PLAIN, (0,))
    assert engine.worst_case(long).output_tokens == 5  # what fits the context
    list(engine.generate([long]))
    assert fake.asked[-1].body["max_tokens"] == 5
    too_long = Draw(Problem.make("a " * 30, None), PLAIN, (0,))
    for fails in (engine.worst_case, lambda d: list(engine.generate([d]))):
        with pytest.raises(UserError, match=rf"problem {too_long.problem.id} has 30 tokens; m .* at most 30"):
            fails(too_long)
    rest = Draw(Problem.make("a b", None), PLAIN, (0,), prefix=(7, 8), parent="p")
    (chain,) = engine.generate([rest])
    assert fake.asked[-1].path == "/v1/completions"
    assert fake.asked[-1].body["prompt"] == [0, 1, 7, 8]
    assert chain.parent == "p"


def test_chains_that_start_together_have_their_prompt_counted_once(fake, opened):
    fake.owner = "vllm"
    counted = []

    def tokenize(asked):
        counted.append(asked.body)
        time.sleep(0.2)  # all of them ask before the answer is there
        return {"tokens": [1, 2, 3]}

    fake.others["/tokenize"] = tokenize
    chains = list(opened(fake).generate([Draw(Problem.make("a b c", None), PLAIN, tuple(range(8)))]))
    assert len(chains) == 8
    assert len(counted) == 1


def test_llama_cpp_counts_in_two_steps(fake, opened):
    fake.owner = "llamacpp"
    fake.others["/apply-template"] = lambda asked: {"prompt": f"<u>{asked.body['messages'][0]['content']}<a>"}
    fake.others["/tokenize"] = lambda asked: {"tokens": list(asked.body["content"].encode())}
    assert opened(fake).encode("hi") == tuple(b"<u>hi<a>")
    assert opened(fake, "form=completion").encode("hi") == tuple(b"hi")


def test_without_any_count_the_bound_is_bytes_and_an_allowance(fake, opened):
    draw = Draw(Problem.make("né?", None), PLAIN, (0, 1, 2))
    assert opened(fake).worst_case(draw) == Cost(prompt_tokens=3 * (5 + 16 + 1024), output_tokens=24)
    assert opened(fake, "template_tokens=10").worst_case(draw).prompt_tokens == 3 * (5 + 16 + 10)
    assert opened(fake).worst_case(replace(draw, indices=())) == Cost()
    fake.owner = "vllm"  # of which this one has no /tokenize
    assert opened(fake).worst_case(draw).prompt_tokens == 3 * (5 + 16 + 1024)
    with pytest.raises(UserError, match="tokenizer=FOLDER_OR_ID"):
        opened(fake).encode("x")
    fake.owner = "someone"
    with pytest.raises(UserError, match="To continue a chain"):
        list(opened(fake).generate([replace(draw, prefix=(1,))]))


def test_a_template_longer_than_foreseen_is_learned(fake, opened):
    fake.answer = lambda asked: completion(asked, usage={"prompt_tokens": 5000, "completion_tokens": 4})
    engine = opened(fake)
    (draw,) = draws(1, 1)
    assert engine.worst_case(draw).prompt_tokens < 5000
    (chain,) = engine.generate([draw])
    assert chain.cost.prompt_tokens == 5000
    assert engine.worst_case(draw).prompt_tokens == 5000


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_the_server_does_the_purse_holds(tmp_path_factory, data):
    """Random faults, lengths and missing usage: no budget is exceeded by a token, and every charge is within what was
    set aside for it."""
    folder = tmp_path_factory.mktemp("run")
    seed = data.draw(st.integers(0, 2**20))
    budget = data.draw(st.integers(1_500, 12_000))
    per_request = data.draw(st.sampled_from([1, 3]))

    def answer(asked):
        chance = (seed * 7919 + asked.number * 104729 + asked.body["seed"]) % 100
        if chance < 10:
            return asked.error(503, "busy")
        if chance < 15:
            return asked.drop()
        if chance < 20:
            return broken_usage(asked)
        if chance < 30:
            return completion(asked, usage=None)
        return completion(asked, " ".join(["w"] * (1 + chance % 8)))

    with (
        FakeServer(answer) as fake,
        Pool.open(folder) as pool,
        Ledger(Budget(tokens=budget), folder) as ledger,
    ):
        engine = open_engine(
            f"openai:m:base_url={fake.url},backoff=0.001,template_tokens=64,chains_per_request={per_request}"
        )
        asked: list[Cost] = []
        reserve = ledger.reserve

        def spy(worst, *args, **kwargs):
            held = reserve(worst, *args, **kwargs)
            if held:
                asked.append(worst)
            return held

        ledger.reserve = spy  # type: ignore[method-assign]
        try:
            sample(PROBLEMS, engine, pool, ledger, 4, PLAIN)
        except ReasoningError:
            assert ledger.spent.cost.tokens > 0 or fake.asked
        finally:
            engine.close()
        assert ledger.spent.cost.tokens <= budget
        assert ledger.spent.cost.tokens <= sum(worst.tokens for worst in asked)


def test_flops_need_a_shape(fake, opened, tmp_path):
    config = dict(
        model_type="qwen3", hidden_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=96
    )
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"num_key_value_heads": 2, "intermediate_size": 96})
    )
    plain, shaped = opened(fake), opened(fake, f"shape={tmp_path}")
    (draw,) = draws(1, 1)
    assert plain.shape is None
    assert plain.worst_case(draw).flops == 0
    (chain,) = shaped.generate([draw])
    assert chain.cost.flops == shaped.shape.decode_flops(0, chain.cost.tokens)
    assert chain.cost.flops < shaped.worst_case(draw).flops
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        opened(fake, f"shape={tmp_path / 'x'}")
