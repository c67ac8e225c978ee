"""Text that a student wrote, as HTML that can do nothing but be read."""

import base64
import html
import io
import itertools
import re
import unicodedata
from functools import lru_cache

import nh3
from markupsafe import Markup, escape
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

RENDERED = 20_000  # characters; a longer text is shown as it was typed
BRACKETS = 500  # reading Markdown takes the square of their number
FORMULAS = 200  # of a text that are drawn
FORMULA = re.compile(
    r"\$\$([^$]{1,400}?)\$\$|(?<![\\$\w])\$([^\s$][^$\n]{0,200}?)\$(?!\w)"
)
SIZES = re.compile(r"\\[bB]igg?[lrm]?(?![A-Za-z])")  # of brackets; unknown to mathtext
NOT_TEXT = re.compile(r"(<pre.*?</pre>|<code.*?</code>|<[^>]*>)", re.DOTALL)
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
    if too_much(text):
        return Markup(f"<pre>{escape(text)}</pre>")
    try:
        dirty = MarkdownWithMath(renderer=Renderer(escape=False)).render(text)
    except Exception:  # whatever was typed, the page is written
        return Markup(f"<pre>{escape(text)}</pre>")
    return Markup(cleaned(dirty))


def too_much(text):
    """Whether a text is shown as it was typed: it is long, or made to take long."""
    return len(text) > RENDERED or any(text.count(c) > BRACKETS for c in "[*_`<&")


def drawn(page):
    """HTML with its formulas as pictures, as far as matplotlib can draw them.

    Nothing is loaded for that; what it cannot draw stays as it was typed.
    """
    left = itertools.repeat(None, FORMULAS)

    def picture(match):
        tex = html.unescape(match[1] or match[2])
        made = _drawn(tex.strip()) if next(left, True) is None else None
        return made or match[0]

    parts = NOT_TEXT.split(page)
    return "".join(p if k % 2 else FORMULA.sub(picture, p) for k, p in enumerate(parts))


@lru_cache(1024)
def _drawn(tex):
    """An image of a formula, its TeX as the text for screen readers; or None."""
    from matplotlib import font_manager, mathtext

    file = io.BytesIO()
    try:
        plain = tex.replace("\n", " ").replace(r"\operatorname", r"\mathrm")
        plain = SIZES.sub("", plain)
        letters = font_manager.FontProperties(size=15)
        mathtext.math_to_image(f"${plain}$", file, letters, dpi=144, format="png")
    except Exception:  # mathtext knows a part of TeX
        return None
    data = base64.b64encode(file.getvalue()).decode()
    high = int.from_bytes(file.getvalue()[20:24], "big") // 2
    source = f"data:image/png;base64,{data}"
    style = f"height:{high}px;vertical-align:middle;border:0"
    return f'<img alt="{html.escape(tex)}" src="{source}" style="{style}">'


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
