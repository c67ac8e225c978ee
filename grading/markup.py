"""Text that a student wrote, as HTML that can do nothing but be read."""

import unicodedata

import nh3
from markupsafe import Markup, escape
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

RENDERED = 20_000  # characters; a longer text is shown as it was typed
TAGS = set(
    "a b blockquote br code dd del dl dt em hr i kbd li ol p pre s strong sub sup "
    "table tbody td th thead tr ul".split()
)


class Renderer(IPythonRenderer):
    """An answer's headings and images must not become the page's."""

    def heading(self, text, level, **attrs):
        return f"<p><strong>{text}</strong></p>\n"

    def image(self, text, url, title=None):
        return f"(image: {escape(text or 'without a description')})"


def rendered(markdown):
    """Markdown as HTML without scripts, styles, images, or names of elements.

    TeX stays as it was typed: nothing is loaded, so nothing can set it.
    """
    text = readable(markdown)
    if len(text) > RENDERED:
        return Markup(f"<pre>{escape(text)}</pre>")
    try:
        dirty = MarkdownWithMath(renderer=Renderer(escape=False)).render(text)
    except Exception:  # whatever was typed, the page is written
        return Markup(f"<pre>{escape(text)}</pre>")
    return Markup(cleaned(dirty))


def cleaned(dirty):
    """HTML without anything that runs, loads or hides."""
    return nh3.clean(
        dirty,
        tags=TAGS,
        attributes={"a": {"href"}, "ol": {"start"}},
        url_schemes={"http", "https", "mailto"},
    )


def readable(text):
    """Text without control characters and lone surrogates, which no file can hold."""
    return "".join(c for c in text if c in "\n\t" or not hidden(c))


def hidden(character):
    """Whether a character shows nothing, or turns around what follows it."""
    joiners = "\u200c\u200d"  # some scripts and emoji need them
    kinds = ("Cc", "Cf", "Cs")
    return unicodedata.category(character) in kinds and character not in joiners
