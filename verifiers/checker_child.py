"""Runs a benchmark's own tests (plain Python with ``assert``) inside a sandbox of their own, where the program under
test is not: each call of one of its functions goes out as a line of JSON and comes back as one.

It imports nothing of this package: the file is all that is bound into the sandbox. Argument: a JSON object with
limits, the file of tests, the names that stand for the program's functions, and what to call in the end ("check").
Lines written: {"call", "args", "kwargs"} and at last {"end": "pass" | "fail" | "unusable", "why"}.
Lines read: {"result": value} or {"error": status}.
"""

import json
import os
import random
import resource
import runpy
import sys

OUT_OF_MEMORY = 97


class ProgramFailed(Exception):
    """The call of the program's function did not end with a result."""


def write(value, depth=0):
    """``value`` as JSON with its Python types, as the program's side reads it (`read_typed` there)."""
    if depth > 100:
        raise Unsendable("a value that is nested too deeply")
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, list):
        return [write(item, depth + 1) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [write(item, depth + 1) for item in value]}
    if isinstance(value, (set, frozenset)):
        return {"set": [write(item, depth + 1) for item in value]}
    if isinstance(value, dict):
        return {"pairs": [[write(k, depth + 1), write(v, depth + 1)] for k, v in value.items()]}
    if type(value) is complex:
        return {"complex": [value.real, value.imag]}
    raise Unsendable(f"a value of type {type(value).__name__}")


class Unsendable(Exception):
    """The tests call the program with something that is not plain data."""


def read(value):
    if type(value) is list:
        return [read(item) for item in value]
    if type(value) is not dict:
        return value
    ((kind, items),) = value.items()
    if kind == "pairs":
        return {read(k): read(v) for k, v in items}
    make = {"tuple": tuple, "set": set, "complex": lambda parts: complex(*parts)}[kind]
    return make([read(item) for item in items])


def main():
    given = json.loads(sys.argv[1])
    for name, limit in given["limits"].items():
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (limit, limit))
    lines = given["results"]
    replies = os.fdopen(os.dup(0), encoding="utf-8")

    def say(message):
        data = (json.dumps(message) + "\n").encode("utf-8", "surrogatepass")
        while data:
            data = data[os.write(lines, data) :]

    def stand_in(name):
        def call(*args, **kwargs):
            say(
                {
                    "call": name,
                    "args": [write(a) for a in args],
                    "kwargs": {k: write(v) for k, v in kwargs.items()},
                }
            )
            reply = json.loads(replies.readline())
            if "error" in reply:
                raise ProgramFailed(reply["error"])
            return read(reply["result"])

        call.__name__ = name.rpartition(".")[2]
        return call

    os.write(lines, b"started\n")
    sys.argv = [given["program"]]
    random.seed(0)
    stand_ins = {name: stand_in(name) for name in given["names"]}
    try:
        space = runpy.run_path(given["program"], init_globals=stand_ins, run_name="tests")
        if given["check"]:
            space["check"](stand_ins[given["names"][0]])
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except Unsendable as error:
        say({"end": "unusable", "why": f"the tests hand over {error}"})
    except (NameError, ImportError, SyntaxError) as error:
        say(
            {
                "end": "unusable",
                "why": f"the tests failed by themselves: {type(error).__name__}: {error}"[:300],
            }
        )
    except Exception as error:
        say({"end": "fail", "why": f"{type(error).__name__}: {error}".rstrip(": ")[:300]})
    else:
        say({"end": "pass", "why": ""})


if __name__ == "__main__":
    main()
