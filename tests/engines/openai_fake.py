"""An OpenAI-compatible server on loopback whose every answer a test can decide, faults included."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from reasoning.records import Cost, Draw, Problem, Sampling

Answer = Callable[["Asked"], Any]


class Asked:
    """One request, and the ways to answer it."""

    def __init__(self, handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int):
        self.handler, self.body, self.number = handler, body, number
        self.path = handler.path
        self.headers = {k.lower(): v for k, v in handler.headers.items()}
        self.at = time.monotonic()

    @property
    def text(self) -> str:
        """The prompt's text."""
        if "messages" in self.body:
            return self.body["messages"][-1]["content"]
        prompt = self.body.get("prompt", "")
        return prompt if isinstance(prompt, str) else " ".join(map(str, prompt))

    def send(self, data: Any, status: int = 200, headers: dict[str, str] | None = None, cut: int = 0) -> None:
        """JSON, or text as it is; ``cut`` bytes at the end are promised and never sent."""
        raw = data.encode() if isinstance(data, str) else json.dumps(data).encode()
        kind = "text/html" if isinstance(data, str) else "application/json"
        self.handler.send_response(status)
        for name, value in ({"Content-Type": kind} | (headers or {})).items():
            self.handler.send_header(name, value)
        self.handler.send_header("Content-Length", str(len(raw)))
        self.handler.end_headers()
        self.handler.wfile.write(raw[: len(raw) - cut])
        if cut:
            self.drop()

    def error(self, status: int, said: str, **headers: str) -> None:
        self.send({"error": {"message": said}}, status, {k.replace("_", "-"): v for k, v in headers.items()})

    def drop(self) -> None:
        self.handler.close_connection = True
        self.handler.connection.shutdown(socket.SHUT_RDWR)

    def wait_for_hang_up(self, most: float = 5.0) -> bool:
        """True once the client has closed the connection."""
        self.handler.connection.settimeout(most)
        try:
            return self.handler.connection.recv(1) == b""
        except OSError:
            return False


def completion(asked: Asked, text: str | None = None, **changes: Any) -> dict[str, Any]:
    """A well-formed answer: for each choice the words "w<seed>" and so on, one token a word, half of the limit."""
    body = asked.body
    limit = body.get("max_tokens") or body.get("max_completion_tokens") or 8
    count = max(1, limit // 2) if text is None else len(text.split())
    choices = []
    for i in range(body.get("n", 1)):
        words = text if text is not None else " ".join(f"w{body['seed'] % 97}.{i}" for _ in range(count))
        choice: dict[str, Any] = {"index": i, "finish_reason": "stop"}
        choice |= (
            {"message": {"role": "assistant", "content": words}} if "messages" in body else {"text": words}
        )
        choices.append(choice)
    prompt = sum(len(m["content"].split()) + 4 for m in body.get("messages", ())) or len(asked.text.split())
    output = count * len(choices)
    usage = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    return {"object": "x", "choices": choices, "usage": usage} | changes


class FakeServer:
    """answer: called for each completion request in a thread of its own; what it returns is sent as JSON, unless it
    has answered by itself and returns None. owner: how it signs its models."""

    def __init__(self, answer: Answer = completion, owner: str = "someone", models: tuple[str, ...] = ("m",)):
        self.answer, self.owner, self.models = answer, owner, models
        self.limits: dict[str, Any] = {}
        self.asked: list[Asked] = []
        self.others: dict[str, Answer] = {}
        self.in_flight = self.most_in_flight = 0
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                fake.get(Asked(self, {}, 0))

            def do_POST(self):
                raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fake.post(self, json.loads(raw))

            def log_message(self, format, *args):
                return

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, request, client_address):
                """A client that hangs up is part of the game."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def get(self, asked: Asked) -> None:
        if asked.path in self.others:
            data = self.others[asked.path](asked)
            if data is not None:
                asked.send(data)
        elif asked.path == "/v1/models":
            rows = [{"id": m, "object": "model", "owned_by": self.owner} | self.limits for m in self.models]
            asked.send({"object": "list", "data": rows})
        else:
            asked.error(404, "no such page")

    def post(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if handler.path in self.others:
            data = self.others[handler.path](Asked(handler, body, 0))
            return Asked(handler, body, 0).send(data) if data is not None else None
        if not handler.path.endswith("/completions"):
            return Asked(handler, body, 0).error(404, "no such page")
        with self._lock:
            asked = Asked(handler, body, len(self.asked))
            self.asked.append(asked)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            data = self.answer(asked)
            with self._lock:
                self.in_flight -= 1
            if data is not None:
                asked.send(data)
        except BaseException:
            with self._lock:
                self.in_flight -= 1
            raise

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


PLAIN = Sampling(max_new_tokens=8)
PROBLEMS = [Problem.make(f"what is {i} and {i}?", str(2 * i)) for i in range(12)]


def draws(count=4, chains=3, sampling=PLAIN):
    return [Draw(problem, sampling, tuple(range(chains))) for problem in PROBLEMS[:count]]


def total(chains):
    return sum((c.cost for c in chains), Cost())


def once(fault):
    """Answers well, but for the first try of each chain."""
    seen = set()

    def answer(asked: Asked):
        key = (asked.text, asked.body["seed"])
        if key not in seen:
            seen.add(key)
            return fault(asked)
        return completion(asked)

    return answer


def broken_usage(asked):
    return completion(asked, usage={"prompt_tokens": 5, "completion_tokens": -3})
