"""Sphinx's settings, and the four things it does otherwise for this course."""

import re
from pathlib import Path

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.errors import SphinxError
from sphinx.transforms import SphinxTransform

project = "Batch normalization"
author = "the authors of the course"
copyright = "text and figures CC BY 4.0, code MIT"
language = "en"

extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
html_theme = "sphinx_book_theme"
html_title = project
html_css_files = ["course.css"]
html_copy_source = False
html_show_sourcelink = False
html_use_index = False
# summaries are fetched, which fails where the site is read from a disk
html_show_search_summary = False
html_permalinks_icon = "#"
pygments_style = "a11y-high-contrast-light"
html_theme_options = {
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "show_toc_level": 1,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "extra_footer": "Built from the course's notebooks, with their stored outputs.",
}

LATEX = LatexToMathML(fancy_error=False)
# the space that \\[4pt] adds between rows, which MathML has no place for
ROW_SPACE = re.compile(r"(\\\\)\s*\[[^\]]*\]")
# as high as a capital, so that a root's sign is not taller than what is under it
STRUT = '<mspace height="0.7em" depth="0.15em"/>'


def mathml(latex, display):
    """A formula as MathML, which browsers draw and screen readers speak by themselves.

    Raises:
        SphinxError: the formula has a command that the converter does not know.
    """
    try:
        made = LATEX.convert_with_local_state(
            ROW_SPACE.sub(r"\1", latex), displaystyle=display
        )
        return made.replace("</msqrt>", f"{STRUT}</msqrt>")
    except LatexError as error:
        raise SphinxError(f"formula {latex!r}: {error}") from None


def visit_math(self, node):
    self.body.append(mathml(node.astext(), display=False))
    raise nodes.SkipNode


def visit_math_block(self, node):
    formula = mathml(node.astext(), display=True)
    self.body.append(f'<div class="formula">{formula}</div>')
    raise nodes.SkipNode


class Addresses(SphinxTransform):
    """Sections of exercises and questions are found by name, whatever their number."""

    default_priority = 400

    def apply(self):
        for raw in list(self.document.findall(nodes.raw)):
            named = re.fullmatch(r"<!--id:(.+)-->", raw.astext())
            if named and isinstance(raw.parent, nodes.title):
                raw.parent.parent["ids"].insert(0, named[1])
                raw.parent.remove(raw)


SECTION = re.compile(r"^## (\d+) (.+)", re.MULTILINE)


def places(folder):
    """Addresses of lessons and of their numbered sections.

    Returns: a dictionary from ("05", None) and from ("05", "8").
    """
    found = {}
    for path in Path(folder).glob("[0-9][0-9]_*.md"):
        lesson, page = path.name[:2], f"{path.stem}.html"
        found[lesson, None] = page
        for number, title in SECTION.findall(path.read_text("utf-8")):
            found[lesson, number] = f"{page}#{nodes.make_id(title)}"
    return found


class Links(SphinxTransform):
    """[3] leads to the third source, "lesson 05, section 8" to that section."""

    default_priority = 410
    pattern = re.compile(
        r"(?:\[|(?<=\[\d[,;] )|(?<=\[\d\d[,;] )|^(?=\d+\]))"
        r"(?P<source>\d+)(?:\]|(?=[,;]))"
        r"|\b[Ll]esson (?P<lesson>\d\d)\b(?:, section (?P<section>\d+)\b)?"
    )

    def apply(self):
        self.sources = {}
        self.places = places(self.env.srcdir)
        for section in self.document.findall(nodes.section):
            if "sources" in section["ids"]:
                self._name(section)
        for text in list(self.document.findall(nodes.Text)):
            if _is_prose(text):
                self._link(text)

    def _name(self, section):
        for found in section.findall(nodes.enumerated_list):
            for number, item in enumerate(found.children, found.get("start", 1)):
                item["ids"].insert(0, f"source-{number}")
                self.sources[str(number)] = f"source-{number}"

    def _link(self, text):
        new, end, plain = [], 0, str(text)
        for match in self.pattern.finditer(plain):
            if target := self._target(match):
                new += [nodes.Text(plain[end : match.start()]), target]
                end = match.end()
        if new:
            text.parent.replace(text, [*new, nodes.Text(plain[end:])])

    def _target(self, match):
        here = self.env.docname
        if match["source"] in self.sources:
            where = {"refid": self.sources[match["source"]]}
        elif match["lesson"] and not here.startswith(match["lesson"]):
            place = self.places.get((match["lesson"], match["section"]))
            if not place:
                raise SphinxError(f"{here}: there is no {match[0]}")
            where = {"refuri": place}
        else:
            where = None
        return where and nodes.reference("", match[0], internal=True, **where)


def _is_prose(text):
    inside = (nodes.reference, nodes.title, nodes.literal, nodes.literal_block)
    inside += (nodes.math, nodes.math_block, nodes.raw, nodes.caption)
    parent = text.parent
    while parent is not None:
        if isinstance(parent, inside):
            return False
        parent = parent.parent
    return True


def silence_captions(app, pagename, templatename, context, doctree):
    """A caption says what the picture's alt text says: it is for eyes only."""
    body = context.get("body", "")
    body = re.sub(
        r'<a class="headerlink"[^>]*title="Link to this image".*?</a>', "", body
    )
    context["body"] = body.replace("<figcaption>", '<figcaption aria-hidden="true">')


def add_moving(app, pagename, templatename, context, doctree):
    """Scripts are loaded only where a figure moves."""
    if 'class="moving"' in context.get("body", ""):
        for script in ("norms.js", "numbers.js", "figures.js"):
            app.add_js_file(script, loading_method="defer")


def setup(app):
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.config.html_math_renderer = "mathml"
    app.add_transform(Addresses)
    app.add_transform(Links)
    app.connect("html-page-context", silence_captions)
    app.connect("html-page-context", add_moving)
