"""The page: one file that fetches nothing, runs nothing, and shows its charts in both schemes."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from escalade_server.core.words import usd
from escalade_server.engine.usage import UsageReport, Use
from escalade_server.report.charts import Bar, bars, columns, nice_step
from escalade_server.report.html import NOBODY, as_html, named
from tests.report.sample import NOW_MS, report

VOID = {"meta", "line"}


class Page(HTMLParser):
    """Reads a page; raises where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        assert not self.open
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words += f"{data} "


def page(of: UsageReport | None = None) -> Page:
    return Page(as_html(of or report(), NOW_MS))


def test_it_stands_alone() -> None:
    found = page()
    names = {tag for tag, _ in found.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "a", "form", "base"}
    for _, attributes in found.tags:
        assert not {"src", "href", "xlink:href", "style", "srcdoc"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
    text = as_html(report(), NOW_MS)
    assert "http" not in text.replace("http-equiv", "")
    assert "url(" not in text
    assert "@import" not in text


def test_its_figures_are_the_reports() -> None:
    of, words = report(), page().words
    assert f"{of.total.tasks:,}" in words
    assert usd(of.total.list_nanos) in words
    for lines in (of.layers, of.models, of.agents, of.task_types):
        for line in lines:
            assert line.name in words
            assert usd(line.use.list_nanos) in words
    assert sum(tag == "rect" for tag, _ in page().tags) >= sum(
        line.use.list_nanos > 0 for line in of.days
    )


def test_names_of_callers_are_text() -> None:
    """D8: an agent's name is whatever its certificate says."""
    assert "=review&<b>" in page().words
    assert "b" not in {tag for tag, _ in Page(bars([Bar("<b>", 1, "<b>")], "<b>")).tags}


@pytest.mark.parametrize(
    "of",
    [
        replace(report(), total=Use(), days=(), layers=(), changes=(), baselines=()),
        replace(report("2026-11-20"), forecast_nanos=None, tracks_tokens=False),
        replace(report(agent="ci-bot"), agents=()),
        replace(report(), agents=(report().agents[0]._replace(name=""),), complete=True),
        replace(report(), baselines=(("p/cheap", 1),)),
    ],
)
def test_other_reports_are_pages_too(of: UsageReport) -> None:
    words = page(of).words
    assert named(of.period) in words
    assert ("Nothing was asked" in words) == (not of.total.tasks)
    assert ("reasoning" in words) == (of.tracks_tokens and bool(of.models))
    assert (NOBODY in words) == any(not line.name for line in of.agents)
    assert ("Forecast" in words) == (of.forecast_nanos is not None)
    assert ("more than the same answers" in words) == (("p/cheap", 1) in of.baselines)


@pytest.mark.parametrize(("top", "step"), [(0, 1), (4, 1), (5, 2), (9, 5), (41, 20), (999, 500)])
def test_scales_have_round_steps(top: int, step: int) -> None:
    assert nice_step(top) == step


def test_empty_charts_are_drawn() -> None:
    Page(columns([], "nothing"))
    Page(bars([], "nothing"))
