"""A real browser shows the charts of the usage report, in the light and in the dark."""

from pathlib import Path

from tests.report.browser import colours, drawn
from tests.report.sample import GOLDEN

MAIN, SOFT, PAPER = (36, 89, 201), (185, 205, 245), (255, 255, 255)
DARK_MAIN, DARK_PAPER = (120, 163, 255), (20, 22, 26)


def test_a_browser_shows_the_charts() -> None:
    light, dark = (colours(drawn(GOLDEN / "report.html", dark=dark)) for dark in (False, True))
    for found, paper, main in ((light, PAPER, MAIN), (dark, DARK_PAPER, DARK_MAIN)):
        assert found.most_common(1)[0][0] == paper
        assert found[main] > 3_000
    assert light[SOFT] > 1_000


def test_without_its_charts_the_browser_shows_none(tmp_path: Path) -> None:
    bare = tmp_path / "bare.html"
    text = (GOLDEN / "report.html").read_text(encoding="utf-8")
    bare.write_text(text.replace("<svg", "<svg style='display:none'").replace("i.main", "i.none"))
    assert colours(drawn(bare))[MAIN] < 100
