"""HTML pages as trees, for tests: a parser that refuses what is not well formed."""

from html.parser import HTMLParser
from xml.etree import ElementTree

VOID = {"meta", "img", "br"}
"""Elements that are never closed."""


class _Parser(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.builder, self.open = ElementTree.TreeBuilder(), []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> repeats an attribute"
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        if tag in VOID:
            self.builder.end(tag)
        else:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"
        self.builder.end(tag)

    def handle_data(self, data):
        if self.open:
            self.builder.data(data)


def parse_page(text):
    """Return the root element; fails where elements are not closed in order."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    assert not parser.open
    return parser.builder.close()


def text_of(element):
    """Return all text of an element, without the white space that a browser ignores."""
    return " ".join("".join(element.itertext()).split())


def by_class(root, name):
    """List the elements that have a class."""
    return [each for each in root.iter() if name in each.get("class", "").split()]
