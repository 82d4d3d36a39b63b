"""Every Python example in README and docs runs as it stands, and so do the example scripts."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page, tmp_path, monkeypatch, capsys):
    """All code of a page is one program, run in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
    code = code.replace('"numEpochs", 3', '"numEpochs", 1')
    exec(compile(code, str(page), "exec"), {"__name__": "example"})
    if page.name == "README.md":
        out = capsys.readouterr().out
        error = float(re.search(r"test error ([\d.]+)%", out)[1])
        assert error < 15  # after one epoch
        assert "WRONG" not in out


def test_backprop_by_hand(capsys):
    runpy.run_path(str(ROOT / "examples" / "backprop_by_hand.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert all(float(v) < 1e-12 for v in re.findall(r"^  dzd\w (\S+)$", out, re.MULTILINE))
    for analytic, numeric in re.findall(r"d\w\[.*\]: (\S+) (\S+)$", out, re.MULTILINE):
        assert float(analytic) == pytest.approx(float(numeric), rel=1e-6)
    last_three = re.findall(r"\s(-?\d+\.\d{8})$", out, re.MULTILINE)[-3:]
    difference, total, mistake = map(float, last_three)
    assert total == pytest.approx(difference, rel=1e-6)
    assert mistake != pytest.approx(difference, rel=0.1)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
