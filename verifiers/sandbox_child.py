"""Runs inside the sandbox: sets its own limits, runs the program, and for a function call writes the result as bytes.

Knows nothing of what is right. It imports nothing of this package: the file is all that is bound into the sandbox.
Arguments: a JSON object with limits, the program's path, and for a call the function's name and arguments.
"""

import json
import os
import resource
import runpy
import sys

OUT_OF_MEMORY = 97
NO_RESULT = 98
_MOST_ITEMS = 1_000_000


def plain(value, depth=0):
    """``value`` as JSON, by exact type: no method of an object of the program's own classes is called."""
    if depth > 100:
        raise TypeError("nested too deeply")
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind in (list, tuple):
        return [plain(item, depth + 1) for item in value]
    if kind in (set, frozenset):
        return {"set": [plain(item, depth + 1) for item in value]}
    if kind is dict:
        return {"pairs": [[plain(k, depth + 1), plain(v, depth + 1)] for k, v in value.items()]}
    raise TypeError(f"a result of type {kind.__name__}")


def main():
    given = json.loads(sys.argv[1])
    for name, limit in given["limits"].items():
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (limit, limit))
    results = given["results"]
    os.write(results, b"started\n")
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
        text = json.dumps(plain(function(*given["args"], **given["kwargs"])))
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    sys.stdout.flush()
    data = text.encode("utf-8", "surrogatepass")
    while data:
        data = data[os.write(results, data) :]


if __name__ == "__main__":
    main()
