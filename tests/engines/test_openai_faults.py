"""The engine 'openai' on a server that is busy, breaks, lies, hangs or is cancelled."""

import time

import pytest
from openai_fake import PLAIN, PROBLEMS, broken_usage, completion, draws, once, total

from reasoning.budget import Budget, Ledger
from reasoning.engines.openai_wire import error_text
from reasoning.errors import EngineError, UserError
from reasoning.pool import Pool
from reasoning.records import Cost, Draw
from reasoning.sampling import sample

# --- refusals that cost nothing ---------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503, 529])
def test_a_busy_server_is_asked_again(fake, opened, status):
    fake.answer = once(lambda asked: asked.error(status, "busy"))
    engine = opened(fake)
    chains = list(engine.generate(draws(2, 2)))
    assert len(chains) == 4
    assert len(fake.asked) == 8
    assert total(chains).output_tokens == 16  # a refusal costs nothing
    assert engine.unfinished() == []


@pytest.mark.parametrize(
    "headers",
    [{"retry_after": "0.4"}, {"retry_after_ms": "400"}, {"retry_after": "soon", "retry_after_ms": "400"}],
)
def test_retry_after_holds_back_every_request(fake, opened, headers):
    def answer(asked):
        return asked.error(429, "slow down", **headers) if asked.number == 0 else completion(asked)

    fake.answer = answer
    list(opened(fake, "parallel=1").generate(draws(1, 2)))
    assert fake.asked[1].at - fake.asked[0].at >= 0.4


def test_the_rate_limits_headers_are_heeded(fake, opened):
    def answer(asked):
        left = "0" if asked.number == 0 else "10"
        headers = {"x-ratelimit-remaining-requests": left, "x-ratelimit-reset-requests": "400ms"}
        asked.send(completion(asked), headers=headers)

    fake.answer = answer
    list(opened(fake, "parallel=1").generate(draws(1, 3)))
    first, second, third = (a.at for a in fake.asked)
    assert second - first >= 0.38
    assert third - second < 0.3


def test_the_rate_limit_in_tokens_is_heeded(fake, opened):
    def answer(asked):
        left = "10" if asked.number == 0 else "100000"
        headers = {"x-ratelimit-remaining-tokens": left, "x-ratelimit-reset-tokens": "0.4"}
        asked.send(completion(asked), headers=headers)

    fake.answer = answer
    list(opened(fake, "parallel=1").generate(draws(1, 2)))
    assert fake.asked[1].at - fake.asked[0].at >= 0.38


def test_tries_have_an_end(fake, opened):
    fake.answer = lambda asked: asked.error(503, "loading")
    with pytest.raises(EngineError, match=r"it answered 503: loading \(3 tries\)"):
        list(opened(fake, "tries=3").generate(draws(1, 1)))
    assert len(fake.asked) == 3


def test_a_wait_beyond_patience_is_an_error(fake, opened):
    fake.answer = lambda asked: asked.error(429, "daily limit", retry_after="86400")
    with pytest.raises(EngineError, match="asks to wait 86400 s"):
        list(opened(fake).generate(draws(1, 1)))
    assert len(fake.asked) == 1


@pytest.mark.parametrize(
    ("status", "said", "mends"),
    [
        (400, "Unsupported parameter: 'max_tokens'", "limit_field=max_tokens"),
        (400, "logprobs are not supported", "logprobs=no"),
        (400, "This model's maximum context length is 128 tokens", "do not fit the context"),
        (401, "Incorrect API key", "key_env=NAME"),
        (403, "not allowed", "key_env=NAME"),
        (404, "no model m", "It offers: m"),
        (422, "bad", "a setting has to change"),
    ],
)
def test_what_the_server_refuses_is_not_asked_twice(fake, opened, status, said, mends):
    fake.answer = lambda asked: asked.error(status, said)
    with pytest.raises(UserError) as error:
        list(opened(fake, "parallel=1").generate(draws(3, 2)))
    assert len(fake.asked) == 1
    for part in (fake.url, str(status), said, mends, PROBLEMS[0].id):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_account_is_not_asked_twice(fake, opened):
    fake.answer = lambda asked: asked.send({"error": {"message": "no", "code": "insufficient_quota"}}, 429)
    with pytest.raises(EngineError, match=r"429: no.*come back later"):
        list(opened(fake, "parallel=1").generate(draws(2, 1)))
    assert len(fake.asked) == 1


def test_a_poison_draw_is_named_when_the_others_are_done(fake, opened):
    def answer(asked):
        if asked.text == PROBLEMS[2].prompt:
            return asked.error(400, "the prompt exceeds the context")
        return completion(asked)

    fake.answer = answer
    arrived = []
    with pytest.raises(UserError, match=rf"problem {PROBLEMS[2].id}, chain 0: .*\(1 more requests failed\)"):
        arrived.extend(opened(fake, "parallel=2").generate(draws(6, 2)))
    assert len(arrived) == 10


def test_a_draw_that_breaks_the_server_is_named_when_the_others_are_done(fake, opened):
    def answer(asked):
        return asked.error(500, "boom") if asked.text == PROBLEMS[1].prompt else completion(asked)

    fake.answer = answer
    arrived = []
    with pytest.raises(
        EngineError, match=rf"problem {PROBLEMS[1].id}, chain 0: it answered 500: boom \(3 tries\)"
    ):
        arrived.extend(opened(fake, "parallel=2,tries=3").generate(draws(6, 1)))
    assert len(arrived) == 5


def test_a_server_that_goes_away_stops_the_call(fake, opened):
    engine = opened(fake, "tries=3,parallel=2")
    assert len(list(engine.generate(draws(1, 1)))) == 1
    fake.close()
    with pytest.raises(EngineError, match=r"nothing answers there .*Start the server"):
        list(engine.generate(draws(12, 8)))


# --- tries whose tokens may be lost -----------------------------------------------------------------------


def slow_loris(asked):
    asked.handler.send_response(200)
    asked.handler.send_header("Content-Length", "100000")
    asked.handler.end_headers()
    for _ in range(60):
        asked.handler.wfile.write(b" ")
        time.sleep(0.05)


LOST = {
    "html": (lambda a: a.send("<!doctype html><html>login</html>"), "HTML that is not JSON"),
    "no json": (lambda a: a.send("oops"), "not JSON"),
    "a list": (lambda a: [1], "is a list"),
    "no choices": (lambda a: {"usage": None}, "no choices"),
    "null choices": (lambda a: completion(a, choices=None), "no choices"),
    "empty choices": (lambda a: completion(a, choices=[]), "no choices"),
    "an error at 200": (lambda a: {"error": {"message": "out of memory"}}, "out of memory"),
    "no message": (lambda a: completion(a, choices=[{"finish_reason": "stop"}]), "no message"),
    "a number": (lambda a: completion(a, choices=[{"message": {"content": 5}}]), "not text"),
    "aborted": (
        lambda a: completion(a, choices=[{"message": {"content": ""}, "finish_reason": "abort"}]),
        "finish_reason='abort'",
    ),
    "too many": (lambda a: completion(a, choices=2 * completion(a)["choices"]), "2 answers where 1"),
    "negative usage": (broken_usage, "completion_tokens=-3"),
    "truncated": (lambda a: a.send(completion(a), cut=10), "broke off"),
    "dropped": (lambda a: a.drop(), "broke off"),
    "gateway": (lambda a: a.error(504, "upstream timed out"), "504"),
    "slow loris": (slow_loris, r"no whole answer within 0\.5 s"),
    "hangs": (lambda a: a.wait_for_hang_up() and None, r"no whole answer within 0\.5 s"),
    "endless": (lambda a: a.send("x" * (2 << 20)), "longer than 1 MiB"),
}


@pytest.mark.parametrize("name", LOST)
def test_a_lost_try_is_charged_and_left_to_the_driver_then_an_error(fake, opened, name):
    fault, said = LOST[name]
    fake.answer = fault
    engine = opened(fake)
    engine.server.timeout = 0.5
    (draw,) = draws(1, 1)
    worst = engine.worst_case(draw)
    costs = []
    for _ in range(2):
        (chain,) = engine.generate([draw])
        assert (chain.finish_reason, chain.text) == ("failed", "")
        costs.append(chain.cost)
        assert engine.unfinished() == []
    with pytest.raises(
        EngineError, match=rf"problem {draw.problem.id}, chain 0: .*{said}.*\(3 tries\)\. [A-Z]"
    ) as e:
        list(engine.generate([draw]))
    assert "\n" not in str(e.value)
    (chain,) = engine.unfinished()
    costs.append(chain.cost)
    assert chain.finish_reason == "failed"
    assert engine.unfinished() == []
    told = name in ("null choices", "empty choices", "no message", "a number", "aborted", "too many")
    assert set(costs) == ({Cost(9, 0, 4)} if told else {worst})  # by the server's count where there is one
    assert len(fake.asked) == 3


@pytest.mark.parametrize("name", ["html", "truncated", "dropped", "gateway", "negative usage"])
def test_the_driver_draws_what_was_lost_again_and_charges_both(fake, opened, tmp_path, name):
    fake.answer = once(LOST[name][0])
    engine = opened(fake)
    with Pool.open(tmp_path) as pool, Ledger(Budget(tokens=100_000), tmp_path) as ledger:
        report = sample(PROBLEMS[:3], engine, pool, ledger, 2, PLAIN)
        assert (report.drawn, report.failed) == (6, 0)
        chains = pool.chains(engine.model)
        worst = engine.worst_case(Draw(PROBLEMS[0], PLAIN))
        assert ledger.spent.failed_tokens == 6 * worst.tokens
        assert ledger.spent.cost.tokens == 6 * worst.tokens + total(chains).tokens


def test_a_server_that_hangs_is_not_asked_for_everything(fake, opened):
    fake.answer = lambda asked: asked.wait_for_hang_up() and None
    engine = opened(fake, "parallel=2")
    engine.server.timeout = 0.2
    with pytest.raises(EngineError, match="Raise timeout="):
        list(engine.generate(draws(12, 8)))
    assert len(fake.asked) <= 6


def test_a_server_that_does_not_heed_the_limit(fake, opened):
    fake.answer = lambda asked: completion(asked, usage={"prompt_tokens": 9, "completion_tokens": 50})
    engine = opened(fake)
    with pytest.raises(
        EngineError, match=r"50 tokens came where at most 8.*limit_field=max_completion_tokens"
    ):
        list(engine.generate(draws(1, 1)))
    (chain,) = engine.unfinished()
    assert (chain.finish_reason, chain.cost) == ("failed", Cost(9, 0, 50))


# --- closing ----------------------------------------------------------------------------------------------


def test_closing_the_generator_hangs_up_and_tells_what_was_under_way(fake, opened):
    hung_up = []

    def answer(asked):
        if asked.text == PROBLEMS[0].prompt:
            time.sleep(0.1)  # the others are in flight by now
            return completion(asked)
        hung_up.append(asked.wait_for_hang_up())
        return None

    fake.answer = answer
    engine = opened(fake, "parallel=4")
    asked = draws(12, 1)
    chains = engine.generate(asked)
    first = next(chains)
    chains.close()
    left = engine.unfinished()
    deadline = time.monotonic() + 5
    while len(hung_up) < len(fake.asked) - 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert hung_up == [True] * (len(fake.asked) - 1)
    assert 3 <= len(left) <= 4  # a worker that was done may have begun the next one
    assert {c.finish_reason for c in left} == {"cancelled"}
    assert first.key not in {c.key for c in left}
    worst = {d.problem.id: engine.worst_case(d) for d in asked}
    for chain in left:
        assert 0 < chain.cost.output_tokens <= 8
        assert chain.cost.prompt_tokens == worst[chain.problem_id].prompt_tokens
    assert engine.unfinished() == []
    fake.answer = completion
    assert len(list(engine.generate(asked))) == 12


def test_giving_way_finishes_what_was_asked_and_asks_no_more(fake, opened):
    def answer(asked):
        time.sleep(0.02 if asked.text == PROBLEMS[0].prompt else 0.2)
        return completion(asked)

    fake.answer = answer
    engine = opened(fake, "parallel=4")
    chains = engine.generate(draws(12, 1))
    keys = [next(chains).key, chains.send(True).key, *(c.key for c in chains)]
    assert len({*keys}) == len(keys) == len(fake.asked)
    assert 4 <= len(keys) < 12
    assert engine.unfinished() == []


def test_a_generator_that_was_never_begun_asks_for_nothing(fake, opened):
    opened(fake).generate(draws()).close()
    assert fake.asked == []


def test_a_page_of_html_is_told_by_its_title():
    page = "<!DOCTYPE HTML>\n<html><head><title>Error response</title></head><body><h1>501</h1></body></html>"
    assert error_text(page) == "an HTML page (Error response)"
    assert error_text("<html>") == "an HTML page"
    assert error_text("a < b") == "a < b"
