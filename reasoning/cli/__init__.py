"""The command line: one verb per job, each in a module of its own that is imported only when it is called.

Flags, recipes (``--config FILE.toml``) and the dataclasses of the verbs share one set of keys. A mistake of the
caller ends with one clear message and an exit status other than 0; ``--debug`` shows the traceback.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import io
import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoning import __version__
from reasoning.cli.ending import INTERRUPTED, TERMINATED, end, how_to_go_on, one_of_several, terminable
from reasoning.errors import ReasoningError, UserError, unknown
from reasoning.options import add_flags, from_mapping, required_flags, usage
from reasoning.progress import printable
from verifiers import VerifierError

ELSEWHERE = {
    "--batch-size": "--problems-per-step",
    "--dataset": "--task",
    "--eval-steps": "--eval-every",
    "--group-size": "--chains-per-problem",
    "--learning-rate": "--lr",
    "--lora-r": "--lora-rank",
    "--lr-scheduler-type": "--schedule",
    "--max-completion-length": "--max-new-tokens",
    "--max-steps": "--steps",
    "--max-tokens": "--max-new-tokens",
    "--model-name-or-path": "--model",
    "--num-generations": "--chains-per-problem",
    "--reward": "--verifier",
    "--reward-funcs": "--verifier",
    "--save-steps": "--checkpoint-every",
    "--warmup-ratio": "--warmup",
}
"""Flags as other trainers call them, too far from ours for a look at the spelling to find them."""
FOLDERS = ("--output-dir", "--output_dir")
"""What other trainers call RUN."""


@dataclass(frozen=True, slots=True)
class Verb:
    """module holds the options class ``options`` and ``run(options) -> exit status``."""

    module: str
    options: str
    about: str
    positional: tuple[str, ...] = ("run",)
    function: str = "run"


VERBS: dict[str, Verb] = {
    "demo": Verb("demo", "DemoOptions", "the whole idea in minutes: train, sample, verify, search, plot"),
    "tasks": Verb("tasks", "TasksOptions", "which problems there are, and all about one task", ("task",)),
    "prompt": Verb(
        "prompt", "PromptOptions", "a prompt as the model is shown it, and what is wrong", ("task",)
    ),
    "sample": Verb("sample", "SampleOptions", "draw many chains per problem into a run's pool"),
    "verify": Verb(
        "verify", "VerifyOptions", "judge a run's chains, or the rows of a JSONL file", ("target",)
    ),
    "train": Verb("train", "TrainOptions", "reinforce what verifies: sft, expert_iteration, grpo, ..."),
    "fit": Verb("fit", "FitOptions", "fit a learned verifier on verified chains"),
    "search": Verb("search", "SearchOptions", "spend a budget per problem at run time"),
    "curve": Verb("curve", "CurveOptions", "accuracy against compute: files, picture and report"),
    "show": Verb(
        "contents",
        "ShowOptions",
        "what is in a run; --cost: what it spent; --training: curves, runs compared",
    ),
    "import": Verb("recorded", "ImportOptions", "read recorded outputs into a pool", ("file", "run")),
    "pool check": Verb(
        "pool", "CheckOptions", "is the pool whole? --repair keeps what can be saved", function="check"
    ),
    "pool query": Verb(
        "pool",
        "QueryOptions",
        "SQL over chains, verdicts, problems, charges",
        ("run", "sql"),
        function="query",
    ),
    "pool export": Verb(
        "pool", "ExportOptions", "to JSONL, Parquet or a Hugging Face data set", function="export"
    ),
    "pool merge": Verb(
        "pool", "MergeOptions", "bring several pools together in one", ("runs",), function="merge"
    ),
    "pool seal": Verb(
        "pool", "SealOptions", "turn write-ahead files into Parquet shards now", function="seal"
    ),
    "doctor": Verb("doctor", "DoctorOptions", "what this machine and installation can do", ()),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status. argv: without the program's name; None takes sys.argv."""
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # spinning threads starve each other on a busy machine
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")  # other libraries' bars; ours say what is going on
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # in a locale without "±" a "?" is better than no table
            stream.reconfigure(errors="replace")
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    with terminable() as came:
        status = _run(arguments, debug, came)
    if argv is None and one_of_several():
        end(status)
    return status


def _run(arguments: list[str], debug: bool, came: Sequence[int]) -> int:
    try:
        return dispatch(arguments)
    except KeyboardInterrupt:
        if text := how_to_go_on(arguments, came):
            print(text, file=sys.stderr)
        return TERMINATED if came else INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ReasoningError, VerifierError) as error:
        if debug:
            raise
        print(printable(f"{error}"), file=sys.stderr)
        return error.exit_status if isinstance(error, ReasoningError) else UserError.exit_status
    except OSError as error:
        if debug:
            raise
        what = f"{error.filename}: " if error.filename else ""
        print(printable(f"{what}{error.strerror or error}. What was acknowledged is kept."), file=sys.stderr)
        return 3


def dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"reasoning {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    actions = [verb for verb in VERBS if verb.startswith(name + " ")]
    if actions:
        if not rest or rest[0] in ("-h", "--help"):
            print("\n".join(f"  reasoning {verb:<13}{VERBS[verb].about}" for verb in actions))
            return 0
        name, rest = f"{name} {rest[0]}", rest[1:]
    if name not in VERBS:
        raise unknown("command", name, VERBS, "reasoning --help lists them")
    options, run = parse(name, rest)
    return run(options)


def parse(name: str, arguments: Sequence[str]) -> tuple[Any, Callable[[Any], int]]:
    """(options, function) of the verb ``name`` from its flags and, with --config, a TOML recipe."""
    verb = VERBS[name]
    module = importlib.import_module(f"reasoning.cli.{verb.module}")
    owner = getattr(module, verb.options)
    function = getattr(module, verb.function)
    parser = Parser(
        prog=f"reasoning {name}",
        usage=usage(f"reasoning {name}", owner, verb.positional),
        # Of several verbs in one module each function tells its own.
        description=module.__doc__ if verb.function == "run" else inspect.cleandoc(function.__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_flags(parser, owner, verb.positional)
    table = f'["{name}"]' if " " in name else f"[{name}]"
    parser.add_argument("--config", metavar="FILE.toml", help=f"recipe: the same keys, under {table}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    there = {word.partition("=")[0] for word in arguments}
    parser.lacking = [f for f in required_flags(owner, verb.positional) if f not in there]
    given = vars(parser.parse_intermixed_args(list(arguments)))
    given.pop("debug")
    values = read_recipe(given.pop("config"), name) | given
    return from_mapping(owner, values, f"reasoning {name}"), function


class Parser(argparse.ArgumentParser):
    """Reports a mistake as the rest of the project does: one message, the nearest name.

    lacking: required flags that were not given, one of which an argument too many may have been meant for.
    """

    lacking: Sequence[str] = ()

    def error(self, message: str) -> Any:
        if message.startswith("unrecognized arguments: "):
            first = message.partition(": ")[2].split()[0]
            known = [s for action in self._actions for s in action.option_strings if s.startswith("--")]
            if first.startswith("-"):
                name = first.split("=")[0]
                if (here := ELSEWHERE.get(name.replace("_", "-"))) in known:
                    raise UserError(
                        f"Unknown option of '{self.prog}' {name!r}: here it is {here}.  ({self.prog} --help)"
                    )
                bare = {a.dest: a.metavar or a.dest for a in self._actions if not a.option_strings}
                if (place := "run" if name in FOLDERS else name.lstrip("-").replace("-", "_")) in bare:
                    raise UserError(
                        f"Unknown option of '{self.prog}' {name!r}: {bare[place]} stands without a flag:  "
                        f"{self.prog} {bare[place]} ..."
                    )
                raise unknown(f"option of '{self.prog}'", name, known, f"{self.prog} --help")
            meant = f"; give it by its name:  {' or '.join(f'{f} {first}' for f in self.lacking)}"
            raise UserError(
                f"{self.prog}: {first!r} is one argument too many{meant if self.lacking else ''}  "
                f"({self.prog} --help)"
            )
        raise UserError(f"{self.prog}: {message}  ({self.prog} --help)")


def read_recipe(path: str | None, verb: str) -> dict[str, Any]:
    if path is None:
        return {}
    if "\0" in path:
        raise UserError(f"{path!r}: no such recipe.")
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: not a TOML file ({e}).") from None
    for key, value in content.items():
        if not isinstance(value, dict):
            raise UserError(f"{path}: put {key!r} under a table named after its command, [{verb}] here.")
        if key not in VERBS and key != "versions":
            raise unknown(f"table in {path}", key, VERBS)
    if verb not in content:
        raise UserError(f"{path}: has no [{verb}] table; it has: {', '.join(content) or 'nothing'}.")
    return content[verb]


def overview() -> str:
    lines = [
        "Train reasoning models on verifiable rewards, search at test time, see what the compute bought.",
        "",
    ]
    lines += [f"  reasoning {name:<13}{verb.about}" for name, verb in VERBS.items()]
    lines += ["", "  reasoning COMMAND --help   all options of a command", "", "Start here:  reasoning demo"]
    return "\n".join(lines)
