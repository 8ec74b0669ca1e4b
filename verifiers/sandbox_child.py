"""Runs inside the sandbox: sets its own limits, runs the program, and for a function call writes the result as bytes.

Knows nothing of what is right. It imports nothing of this package: the file is all that is bound into the sandbox.
Argument: a JSON object with limits, the program's path, and for a call the path of another that holds the function's
name and arguments; with "typed" these and the result keep their Python types (`read_typed`, `plain` with typed=True).
"""

import collections
import json
import os
import resource
import runpy
import sys

OUT_OF_MEMORY = 97
NO_RESULT = 98
_MOST_ITEMS = 1_000_000
_MAPPINGS = (dict, collections.OrderedDict, collections.defaultdict, collections.Counter)
_SERIES = (
    range,
    map,
    filter,
    zip,
    enumerate,
    reversed,
    collections.deque,
    type({}.keys()),
    type({}.values()),
)
_SERIES += (type({}.items()), type(_ for _ in ()), type(reversed([])))


def plain(value, depth=0, typed=False):
    """``value`` as JSON, by exact type: no method of an object of the program's own classes is called. Tuples are
    lists, unless ``typed``; then a series that is no list (a generator, say) is one too, cut at _MOST_ITEMS."""
    if depth > 100:
        raise TypeError("nested too deeply")
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind in (list, tuple):
        items = [plain(item, depth + 1, typed) for item in value]
        return {"tuple": items} if typed and kind is tuple else items
    if kind in (set, frozenset):
        return {"set": [plain(item, depth + 1, typed) for item in value]}
    if kind in _MAPPINGS:
        return {"pairs": [[plain(k, depth + 1, typed), plain(v, depth + 1, typed)] for k, v in value.items()]}
    if typed and kind is complex:
        return {"complex": [value.real, value.imag]}
    if typed and kind in _SERIES:
        return [plain(item, depth + 1, typed) for item, _ in zip(value, range(_MOST_ITEMS), strict=False)]
    raise TypeError(f"a result of type {kind.__name__}")


def read_typed(value):
    """The Python value that ``plain(..., typed=True)`` has written."""
    if type(value) is list:
        return [read_typed(item) for item in value]
    if type(value) is not dict:
        return value
    ((kind, items),) = value.items()
    if kind == "pairs":
        return {read_typed(k): read_typed(v) for k, v in items}
    make = {"tuple": tuple, "set": set, "complex": lambda parts: complex(*parts)}[kind]
    return make([read_typed(item) for item in items])


def main():
    given = json.loads(sys.argv[1])
    for name, limit in given["limits"].items():
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (limit, limit))
    results = given["results"]
    os.write(results, b"started\n")
    if "call" in given:
        with open(given["call"], encoding="utf-8") as file:
            given |= json.load(file)
    name = given.get("function")
    if name is None:
        os.close(results)
    sys.argv = [given["program"]]
    try:
        space = runpy.run_path(given["program"], run_name="solution" if name else "__main__")
        if name is None:
            return
        owner, _, method = name.rpartition(".")
        function = getattr(space[owner](), method) if owner else space[name]
        typed = given.get("typed", False)
        args, kwargs = given["args"], given["kwargs"]
        if typed:
            args, kwargs = [read_typed(a) for a in args], {k: read_typed(v) for k, v in kwargs.items()}
        text = json.dumps(plain(function(*args, **kwargs), typed=typed))
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    sys.stdout.flush()
    data = text.encode("utf-8", "surrogatepass")
    while data:
        data = data[os.write(results, data) :]


if __name__ == "__main__":
    main()
