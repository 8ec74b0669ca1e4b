import io

import pytest

from reasoning import progress
from reasoning.progress import Line, clock, human


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (950, "950"),
        (1900, "1.9k"),
        (9960, "10k"),
        (71_000, "71k"),
        (2e6, "2.0M"),
        (3.14e15, "3.1P"),
    ],
)
def test_human(number, text):
    assert human(number) == text


def test_clock():
    assert (clock(41.9), clock(725), clock(3729)) == ("0:41", "12:05", "1:02:09")


def test_a_line_that_an_error_leaves_says_how_far_it_came_once():
    stream = io.StringIO()
    line = Line("sample", stream)

    def interrupted(line, *done):
        with line:
            for count in done:
                line.update(done=count, total=8)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(line, 2, 3)
    line.close()
    assert stream.getvalue() == "sample 3/8  0:00\n"
    with pytest.raises(KeyboardInterrupt):
        interrupted(Line("verify", stream), 2)
    assert stream.getvalue() == "sample 3/8  0:00\n", "what had not begun has nothing to tell"


def test_plain_lines_come_every_ten_seconds_and_once_at_the_end(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    line = Line("sample", stream)
    for second in range(25):
        now[0] = second
        line.update(
            done=10 * second, total=400, output_tokens=1900 * second, budget="71k/200k tokens", correct=0.34
        )
    line.close()
    lines = stream.getvalue().splitlines()
    assert lines == [
        "sample 100/400  1.9k tok/s  71k/200k tokens  correct 34%  eta 0:30",
        "sample 200/400  1.9k tok/s  71k/200k tokens  correct 34%  eta 0:20",
        "sample 240/400  1.9k tok/s  0:24",
    ]


def test_eta_counts_only_what_this_run_did(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    line = Line("sample", io.StringIO())
    line.update(done=300, total=400)
    now[0] = 10.0
    line.fields |= {"done": 350}
    assert line.text(10.0).endswith("eta 0:10")


def test_a_terminal_gets_one_line_redrawn():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    line = Line("sample", stream)
    line.shown = -1.0
    line.update(done=1, total=2)
    line.say("step 1")
    line.close()
    text = stream.getvalue()
    assert "█" * 10 + "░" * 10 in text
    assert "step 1\n" in text
    assert text.count("\n") == 2
