"""report.html: self-contained, escaped, whole; and in a real browser where there is one."""

from __future__ import annotations

import base64
import errno
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_pool import synthetic_pool

from reasoning.errors import PoolError, UserError
from reasoning.pool import Pool
from reasoning.records import Problem, chain_key
from reasoning.report import write_report
from reasoning.report.page import Excerpt, _excerpt, escaped
from verifiers.base import Verdict

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.open, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def html(written):
    return written.html.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tags(html):
    parser = Tags()
    parser.feed(html)
    assert parser.open == []
    return parser


def test_everything_is_written(written, run_folder):
    for path in (written.html, written.curves_json, written.curves_csv, *written.pictures.values()):
        assert path.stat().st_size > 0
    assert set(written.pictures) == {"curves", "by_difficulty", "iso_compute"}
    for path in written.pictures.values():
        assert path.read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in path.with_suffix(".svg").read_bytes()[:1000]
    assert not list(run_folder.glob(".*partial"))
    assert "seconds" in written.table.columns


def test_the_page_needs_nothing_from_outside(tags):
    for tag, attributes in tags.found:
        assert tag not in ("script", "iframe", "object", "embed", "base", "form")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset"):
            if attributes.get(name):
                assert attributes[name].startswith("data:")


def test_every_picture_has_words(tags):
    images = [a for tag, a in tags.found if tag == "img"]
    assert len(images) == 3
    assert all(len(a["alt"]) > 40 for a in images)
    assert sum(tag == "figcaption" for tag, _ in tags.found) == 3
    for a in images:
        assert b"<svg" in base64.b64decode(a["src"].partition(",")[2])[:1000]


def test_the_table_and_findings_are_on_the_page(tags, written):
    text = " ".join(tags.text)
    for row in written.table.rows:
        for cell in row[1:-1]:  # seconds differ from run to run and stay in the terminal
            assert cell in text
    for finding in written.findings:
        assert finding in text
    assert "A <finished> run" in text
    assert text.count("Reference answer:") == 10


def test_what_a_model_wrote_is_text(tmp_path):
    assert escaped("<script>alert(1)</script>") == "&lt;script&gt;alert(1)&lt;/script&gt;"
    assert escaped("a\x00b\u202ec") == "a\ufffdb\ufffdc"
    assert escaped("\"'") == "&quot;&#x27;"


def test_hostile_records_stay_text(tmp_path):
    evil = "</pre><script>document.title='owned'</script><img src=x onerror=alert(1)>"
    with synthetic_pool(tmp_path, problems=6, chains=4, models=("base@0",)) as pool:
        chains = pool.chains()
        problem = Problem.make(evil, evil, "word", {"question": evil})
        pool.add_problems([problem])
        name = "base@0"
        added = [
            replace(
                c,
                problem_id=problem.id,
                text=evil,
                key=chain_key(name, c.sampling, problem.id, evil, c.index),
            )
            for c in chains
            if c.problem_id == chains[0].problem_id
        ]
        pool.append(added)
        pool.add_verdicts(
            "numeric", {c.key: Verdict(float(c.index % 2), answer=evil + str(c.index % 2)) for c in added}
        )
        written = write_report(tmp_path, pool, oracle="numeric", title=evil)
    parser = Tags()
    parser.feed(written.html.read_text(encoding="utf-8"))
    assert not [tag for tag, _ in parser.found if tag == "script"]
    assert not [a for tag, a in parser.found if tag == "img" and "onerror" in a]
    assert evil in "".join(parser.text)


def test_long_chains_are_cut_with_a_remark():
    shown = _excerpt(Excerpt("rule", "m", "q", "r", "x" * 7000, None, []))
    assert "[... 1,000 more characters]" in shown


def test_the_same_pool_gives_the_same_files(written, run_folder, tmp_path):
    with Pool.open(run_folder, read_only=True) as pool:
        again = write_report(tmp_path, pool, oracle="numeric", scorers=["learned"], title="A <finished> run")
    assert again.findings == written.findings
    names = sorted(p.name for p in tmp_path.iterdir())
    assert len(names) == 9
    for name in names:
        assert (tmp_path / name).read_bytes() == (run_folder / name).read_bytes(), name


def test_the_analysis_is_in_the_json(written):
    content = json.loads(written.curves_json.read_text())
    assert content["iso_compute"]["base"] == "base@0"
    assert len(content["iso_compute"]["headline"]) == 2
    assert content["findings"] == list(written.findings)
    assert {c["basis"] for c in content["comparisons"]} == {"k", "flops"}


def test_pictures_of_an_earlier_report_do_not_linger(run_folder, tmp_path):
    for suffix in (".png", ".svg"):
        (tmp_path / f"iso_compute{suffix}").write_bytes(b"old")
    with Pool.open(run_folder, read_only=True) as pool:
        paths = write_report(tmp_path, pool, oracle="numeric", models=["base@0"])
    assert set(paths.pictures) == {"curves", "by_difficulty"}
    assert not list(tmp_path.glob("iso_compute*"))


def test_failures_are_one_line(run_folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Pool.open(run_folder, read_only=True) as pool:
        with pytest.raises(UserError, match="above the 16 chains"):
            write_report(tmp_path, pool, oracle="numeric", ks=[64])
        (tmp_path / "file").write_text("")
        with pytest.raises(PoolError, match="cannot be written"):
            write_report(tmp_path / "file", pool, oracle="numeric", models=["base@0"], ks=[1])
        monkeypatch.setattr("os.replace", full)
        with pytest.raises(PoolError, match="the disk is full"):
            write_report(tmp_path, pool, oracle="numeric", models=["base@0"], ks=[1])
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(BROWSER is None, reason="no chromium to open the page with")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(written, tmp_path, width):
    """Opened in a browser that may run the probe below: nothing is logged, pictures decode, nothing
    overflows."""
    probe = """<script>
      addEventListener("load", async () => {
        const images = [...document.images];
        await Promise.all(images.map(i => i.decode()));
        document.title = JSON.stringify({
          images: images.map(i => i.naturalWidth),
          rows: [...document.querySelectorAll("table")][0].innerText,
          overflow: document.documentElement.scrollWidth - innerWidth,
        });
      });
    </script>"""
    page = written.html.read_text(encoding="utf-8")
    # The page itself allows no script at all; the probe is let in here and nowhere else.
    assert "default-src 'none'" in page
    page = page.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
    copy = tmp_path / "probed.html"
    copy.write_text(page.replace("</head>", probe + "</head>"), encoding="utf-8")
    done = subprocess.run(
        [
            str(BROWSER),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},1000",
            "--virtual-time-budget=15000",
            "--dump-dom",
            copy.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.S)
    assert title is not None
    seen = json.loads(title[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert len(seen["images"]) == 3
    assert all(w > 0 for w in seen["images"])
    for row in written.table.rows:
        for cell in row[:-1]:
            assert cell in seen["rows"]
    assert seen["overflow"] <= 0


def test_the_package_is_light():
    code = "import sys, reasoning.report; print('matplotlib' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert out.stdout.strip() == "False"
