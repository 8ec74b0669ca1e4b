"""The house stands as it is drawn: a file imports only from floors below its own, and the doors are light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FLOORS: dict[str, int] = {
    "verifiers": 0,
    "reasoning": 0,
    "reasoning.errors": 0,
    "reasoning.spec": 0,
    "reasoning.options": 0,
    "reasoning.records": 0,
    "reasoning.progress": 0,
    "reasoning.durable": 0,
    "reasoning.hub": 0,
    "reasoning.limits": 1,
    "reasoning.charges": 1,
    "reasoning.prices": 1,
    "reasoning.budget": 1,
    "reasoning.flops": 1,
    "reasoning.architectures": 1,
    "reasoning.tasks": 1,
    "reasoning.estimators": 1,
    "reasoning.statistics": 1,
    "reasoning.runfile": 1,
    "reasoning.cluster": 2,
    "reasoning.pool": 2,
    "reasoning.select": 2,
    "reasoning.engines": 3,
    "reasoning.search": 3,
    "reasoning.agreement": 3,
    "reasoning.recorded": 4,
    "reasoning.drawing": 4,
    "reasoning.sharing": 4,
    "reasoning.sampling": 4,
    "reasoning.solve": 4,
    "reasoning.train": 5,
    "reasoning.curves": 6,
    "reasoning.comparisons": 6,
    "reasoning.iso_compute": 6,
    "reasoning.report": 6,
    "reasoning.cli": 7,
    "reasoning.__main__": 8,
}
"""Room -> floor. Within one floor a room may use another only where PEERS says so."""

PEERS = {
    ("reasoning.spec", "reasoning.errors"),
    ("reasoning.spec", "reasoning.records"),
    ("reasoning.sharing", "reasoning.drawing"),
    ("reasoning.sampling", "reasoning.drawing"),
    ("reasoning.sampling", "reasoning.sharing"),
    ("reasoning.solve", "reasoning.drawing"),
    ("reasoning.solve", "reasoning.sampling"),
    ("reasoning.solve", "reasoning.sharing"),
    ("reasoning.recorded", "reasoning.sampling"),
    ("reasoning.flops", "reasoning.architectures"),
    ("reasoning.budget", "reasoning.limits"),
    ("reasoning.budget", "reasoning.charges"),
    ("reasoning.budget", "reasoning.prices"),
    ("reasoning.options", "reasoning.errors"),
    ("reasoning.durable", "reasoning.errors"),
    ("reasoning.comparisons", "reasoning.curves"),
    ("reasoning.iso_compute", "reasoning.curves"),
    ("reasoning.iso_compute", "reasoning.comparisons"),
    ("reasoning.report", "reasoning.curves"),
    ("reasoning.report", "reasoning.comparisons"),
    ("reasoning.report", "reasoning.iso_compute"),
}

HEAVY = {
    "torch",
    "transformers",
    "vllm",
    "ray",
    "matplotlib",
    "pyarrow",
    "scipy",
    "sympy",
    "datasets",
    "duckdb",
    "rich",
}


def room(module: str) -> str:
    parts = module.split(".")
    if parts[0] == "verifiers":
        return "verifiers"
    return ".".join(parts[:2])


def modules():
    for package in ("reasoning", "verifiers"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


def imports(path: Path):
    """(imported module, line) of every import statement, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (
                    (inner if room(inner) in FLOORS and node.module == "reasoning" else node.module),
                    node.lineno,
                )


def test_every_room_has_a_floor():
    rooms = {room(name) for name, _ in modules()}
    assert rooms == set(FLOORS), "a new room needs a floor; a vanished one must leave the plan"


@pytest.mark.parametrize(
    ("name", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_imports_point_down(name, path):
    here = room(name)
    for module, line in imports(path):
        if module.split(".")[0] not in ("reasoning", "verifiers"):
            continue
        there = room(module)
        if there == here or there == "reasoning":
            continue
        allowed = FLOORS[there] < FLOORS[here] or (there == "verifiers" and here != "verifiers")
        assert allowed or (here, there) in PEERS, f"{path.name}:{line}: {here} may not import {there}"


@pytest.mark.parametrize("package", ["reasoning", "verifiers"])
def test_the_doors_are_light(package):
    code = f"import sys, {package}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not HEAVY & set(loaded)
    if package == "verifiers":
        assert "reasoning" not in loaded


def test_untrusted_text_cannot_reach_an_executing_parser():
    banned = {"eval", "exec", "sympify", "parse_expr"}
    for name, path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                if called == "eval" and isinstance(node.func, ast.Attribute) and not node.args:
                    continue  # torch's module.eval()
                assert called not in banned, f"{name}:{node.lineno} calls {called}"
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [a.name for a in node.names] + [getattr(node, "module", "") or ""]
                assert not {"pickle", "marshal", "shelve", "dill"} & set(names), f"{name} imports a pickler"
