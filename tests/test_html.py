"""Pages stand alone, foreign words are escaped, and lines are told apart."""

import base64
import re
import sys
import zlib
from html.parser import HTMLParser

from bort import html


class Cells(HTMLParser):
    """Collects the texts of a page, as a browser shows them."""

    def __init__(self, text: str):
        super().__init__()
        self.texts, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def test_cells_are_shown_as_they_are():
    page = Cells(html.format_table([("<b>", 1), (None, "a & b")], ("x", "y"), "texts"))
    assert page.texts == ["x", "y", "<b>", "1", "a & b"]
    assert page.tags == ["table", "tr", "th", "th", "tr", "td", "td", "tr", "td", "td"]


def test_numbers_legends_and_folds_are_escaped():
    assert Cells(html.format_numbers([("<i>", "a & b")])).texts == ["<i>", "a & b"]
    assert Cells(html.format_legend([("<u>", "more")])).texts == ["<u>", " more"]
    assert Cells(html.fold("<s>", "<p>inside</p>")).texts == ["<s>", "inside"]
    assert html.build_panel("<x>", "plot")[:2] == ["<div><h3>&lt;x&gt;</h3>", "plot"]


def test_no_two_of_24_lines_look_alike():
    strokes = [html.choose_stroke(number) for number in range(24)]
    assert len(set(strokes)) == 24 and strokes[0][1] == "solid" and strokes[8][1] == "dash"
    assert html.choose_stroke(24) == strokes[0]


def test_a_page_brings_plotly_along_once(tmp_path):
    plots = [html.create_figure("step", "loss", height=200) for _ in range(2)]
    assert plots[0].layout.xaxis.title.text == "step" and plots[0].layout.height == 200
    html.write_page(tmp_path / "a.html", "<title>", ["<p>first</p>", *plots])
    text = (tmp_path / "a.html").read_text("utf-8")
    assert text.startswith("<!doctype html>") and "<title>&lt;title&gt;</title>" in text
    html.write_page(tmp_path / "one.html", "x", plots[:1])
    once = (tmp_path / "one.html").stat().st_size
    assert 1_000_000 < once < 2_200_000 and len(text.encode()) < once + 50_000
    packed = re.search(r"<script type=text/plain id=plotly>([^<]+)</script>", text)[1]
    assert zlib.decompress(base64.b64decode(packed)).startswith(b"/**\n* plotly.js v")
    assert not re.search(r'<(script|link)[^>]*(src|href)="?http', text)


def test_without_plotly_a_page_is_one_line(tmp_path, monkeypatch, caplog):
    """A run that has finished does not fail for want of its page."""
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    path = tmp_path / "page.html"
    with caplog.at_level("WARNING"):
        assert not html.write_page(path, "x", (html.create_figure("a", "b") for _ in range(2)))
    assert caplog.messages == [f"report: {path} is not written, since plotly is not installed"]
    assert not path.exists() and html.write_page(path, "x", ["<p>words</p>"]) and path.exists()
