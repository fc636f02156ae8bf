"""Looks at a page of HTML as text: whether its tags are balanced, what it refers to, what it says."""

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "input", "hr"}
LOADS = {"src", "href", "data", "poster", "srcset", "action", "xlink:href", "background"}


class Page(HTMLParser):
    """What a page holds: `tags`, `text`, `references` (of attributes that load or lead elsewhere), `ids`, `wrong`."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.html, self.wrong, self.references, self.ids, self.tags, self.attributes = html, [], [], [], [], []
        self.levels, self._open, self._words = [], [], []
        self.feed(html)
        self.close()
        self.wrong += [f"<{tag}> is never closed" for tag in self._open]
        self.wrong += [f"id {name!r} twice" for name in {i for i in self.ids if self.ids.count(i) > 1}]

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        self.references += [value for name, value in attrs if name in LOADS]
        self.ids += [value for name, value in attrs if name == "id"]
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        self.wrong += [f"<{tag} {name}=…>" for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        if not self._open or self._open.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data):
        if not self._open or self._open[-1] not in ("script", "style"):
            self._words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self._words).split())


def read(path):
    """The page of a file, which must be whole, load nothing, and have its headings in order."""
    size = path.stat().st_size
    page = Page(path.read_text(encoding="utf-8"))
    assert not page.wrong, page.wrong
    assert size < 2_000_000, size
    assert "http:" not in page.html
    assert "https:" not in page.html
    outside = [r for r in page.references if not r.startswith(("#", "data:")) and not r.endswith("report.html")]
    assert not outside, outside
    assert not re.search(r"url\(|@import|<iframe|<object|<embed", page.html), "something that loads"
    assert page.levels[0] == 1
    assert page.levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(page.levels, page.levels[1:], strict=False)), page.levels
    for tag, attributes in page.attributes:
        assert tag != "img" or attributes.get("alt"), "an image without words"
        assert tag != "svg" or attributes.get("aria-hidden") or attributes.get("aria-labelledby"), "a drawing without"
    return page
