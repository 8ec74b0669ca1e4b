"""The README's commands exist as they are written, its Python runs, and its make targets are there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from reasoning.cli import VERBS, parse
from reasoning.train.fresh import new_model, save_folder

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = sorted((ROOT / "docs" / "guide").glob("*.md"))
PAGES = [TEXT] + [path.read_text(encoding="utf-8") for path in GUIDE]
COMMANDS = [c for page in PAGES for c in re.findall(r"^ {4}(reasoning .*)$", page, re.MULTILINE)]


def test_there_are_commands():
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command):
    _, verb, *arguments = shlex.split(command, comments=True)
    if arguments and f"{verb} {arguments[0]}" in VERBS:
        verb = f"{verb} {arguments.pop(0)}"
    options, run = parse(verb, arguments)
    assert callable(run)
    assert options


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^ {4}|`)make ([a-z-]+)", TEXT, re.MULTILINE))
    assert named <= targets
    ci = set(re.findall(r"^make ([a-z-]+)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE))
    assert ci <= named, "CI runs only what the README names"


def test_files_that_are_linked_exist():
    for path in (ROOT / "README.md", *GUIDE):
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), target


def test_the_python_example_runs(tmp_path):
    prompts = ["Q: Gus has 6 toys. The answer is 6."]
    model, tokenizer = new_model("new:tiny:hidden=32,layers=1,heads=2,kv_heads=1,ffn=48", prompts)
    save_folder(tmp_path / "runs/demo/base/model", model, tokenizer)
    [code] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    code = code.replace("n=20", "n=4").replace("n=8", "n=4, sampling=Sampling(max_new_tokens=8)")
    script = "from reasoning.records import Sampling\n" + code + "print(paths.html.is_file())\n"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "True", done.stderr
