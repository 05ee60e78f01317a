"""Reading a report back: its tables, its pictures and its text."""

import base64
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path


@dataclass
class Cell:
    """Text of a cell, and the part of it that is bold."""

    text: str = ""
    bold: str = ""


@dataclass
class Page(HTMLParser):
    """Tables by id as {row name: cells}, heads by id, headings, pictures, and all text."""

    tables: dict[str, dict[str, list[Cell]]] = field(default_factory=dict)
    heads: dict[str, list[str]] = field(default_factory=dict)
    headings: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    elements: list[str] = field(default_factory=list)
    text: str = ""
    _stack: list[str] = field(default_factory=list)
    _table: str = ""
    _row: list[Cell] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.elements.append(tag)
        if tag == "img":
            self.pictures.append(values["src"] or "")
        if tag in ("meta", "img"):
            return
        self._stack.append(tag)
        if tag == "table":
            self._table = values["id"] or ""
            self.tables[self._table] = {}
        if tag == "tr":
            self._row = []
        if tag in ("th", "td"):
            self._row.append(Cell())
        if tag in ("h1", "h2", "h3"):
            self.headings.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._stack.pop() == tag
        if tag == "tr":
            if "thead" in self._stack:
                self.heads[self._table] = [cell.text for cell in self._row]
            else:
                self.tables[self._table][self._row[0].text] = self._row[1:]

    def handle_data(self, data: str) -> None:
        if "style" in self._stack:
            return
        self.text += data
        if "th" in self._stack or "td" in self._stack:
            self._row[-1].text += data
            if "b" in self._stack:
                self._row[-1].bold += data
        if {"h1", "h2", "h3"} & set(self._stack):
            self.headings[-1] += data


def read_page(path: Path) -> Page:
    """Parses a report."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    return page


def svg_texts(page: Page) -> list[str]:
    """The pictures of a page as SVG text."""
    prefix = "data:image/svg+xml;base64,"
    assert all(picture.startswith(prefix) for picture in page.pictures)
    return [base64.b64decode(picture.removeprefix(prefix)).decode() for picture in page.pictures]


def numbers(text: str) -> list[float]:
    """All numbers in a text."""
    return [float(found) for found in re.findall(r"\d+(?:\.\d+)?", text)]
