import os
import subprocess
import sys
from pathlib import Path

from verifiers.foreign import owner_of_verifiers

ROOT = Path(__file__).resolve().parents[2]


def test_our_own_distribution_is_no_foreigner():
    assert owner_of_verifiers(["reasoning-toolkit"]) == ""
    assert owner_of_verifiers(["reasoning_toolkit", "reasoning-toolkit"]) == ""


def test_a_foreign_owner_is_named_with_what_to_do():
    said = owner_of_verifiers(["reasoning-toolkit", "verifiers"])
    assert "'verifiers'" in said
    assert "environment of its own" in said


def test_importing_beside_a_foreign_package_says_so(tmp_path):
    (tmp_path / "verifiers").mkdir()
    (tmp_path / "verifiers" / "__init__.py").write_text("")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", "import reasoning"], capture_output=True, text=True, check=False, env=environment,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode != 0
    assert "not reasoning-toolkit's" in done.stderr
    assert str(tmp_path) in done.stderr
