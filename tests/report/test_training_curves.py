"""Training curves: every panel of what was measured, a page that runs nothing, and a redraw while the run goes on."""

import json

import pytest

from reasoning.cli import main
from reasoning.errors import UserError
from reasoning.report.training import evaluations, series, shown, write_training

ROWS = [
    {
        "step": 0,
        "eval/pass@1": 0.25,
        "eval/pass@1_low": 0.15,
        "eval/pass@1_high": 0.35,
        "eval/pass@8": 0.5,
        "eval/maj@8": 0.375,
    },
    {"step": 1, "reward": 0.3, "entropy": 1.5, "grad_norm": 0.4, "kl": 0.01},
    {"step": 2, "reward": 0.6, "entropy": 1.2, "grad_norm": 0.3, "kl": 0.02, "eval/pass@1": 0.5},
]
SAMPLE = {"step": 2, "task": "word", "prompt": "<script>x</script>?", "chain": "<img src=x>", "score": 1.0}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS) + '{"ste')
    (tmp_path / "samples.jsonl").write_text(json.dumps(SAMPLE) + "\n")
    return tmp_path


def test_panels_are_those_of_what_was_measured():
    assert [heading for heading, _ in shown(ROWS)] == [
        "Held-out accuracy (%)".removesuffix(" (%)"),
        "Reward",
        "Entropy (nats per token)",
        "Gradient norm",
        "KL to the start (nats)",
    ]
    assert series(ROWS, "eval/pass@") == ([0], [0.5], "eval/pass@8")
    assert series(ROWS, "reward") == ([1, 2], [0.3, 0.6], "reward")
    columns, body = evaluations(ROWS)
    assert columns == ["step", "pass@1", "pass@8", "maj@8"]
    assert body == [["0", "25.0% ±10.0%", "50.0%", "37.5%"], ["2", "50.0%", "", ""]]


def test_the_page_shows_what_was_written_and_runs_nothing(run):
    page, picture, rows = write_training(run, refresh_seconds=30)
    text = page.read_text()
    assert len(rows) == 3
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert text.count("<svg") == 2
    assert "&lt;script&gt;x&lt;/script&gt;?" in text
    assert "<script" not in text
    assert "<img src=x>" not in text
    assert '<meta http-equiv="refresh" content="30">' in text
    before = text
    write_training(run, refresh_seconds=30)
    assert page.read_text() == before  # the same records, the same bytes


def test_the_command_prints_the_evaluations(run, capsys):
    assert main(["show", str(run), "--training"]) == 0
    out, err = capsys.readouterr()
    assert "25.0% ±10.0%" in out
    assert "not ended" in out
    assert "training.html" in err
    assert main(["show", str(run), "--watch", "5"]) == 2
    (run / "model").mkdir()
    (run / "model" / "training.json").write_text("{}")
    assert main(["show", str(run), "--training", "--watch", "5"]) == 0  # an ended run is drawn once
    assert 'http-equiv="refresh"' not in (run / "training.html").read_text()


def test_a_folder_without_a_training_run(tmp_path):
    with pytest.raises(UserError, match=r"no metrics\.jsonl"):
        write_training(tmp_path)
