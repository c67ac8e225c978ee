"""Pages of the reading edition, made from the notebooks as they are stored."""

import base64
import html
import json
import posixpath
import re
import string
from dataclasses import dataclass, field

from bn_helpers import plots

from ..lesson import KINDS

# Markdown pages of the course that become pages of the site
PAGES = {
    "README.md": "index",
    "grading/README.md": "instructors",
    "CONTRIBUTING.md": "contributing",
    "data/README.md": "data",
}
FENCE = re.compile(r"^(```+|~~~+).*?^\1\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
HINT = re.compile(
    r"<details><summary>(.*?)</summary>(.*?)</details>", re.DOTALL | re.IGNORECASE
)
# what sources cite: a paper, and threads on the host of public code, such as
# "owner/name, issue 12, mended by pull request 13" and "owner/name, issues 1 and 2"
PAPER = re.compile(r"(?<![\w/\[`])arXiv:(\d{4}\.\d{4,5})")
NAME = r"(?<![\w/\[`.-])(?!and/or\b)([\w.-]+/[\w.-]+),?\s+"
KIND = r"(?:issues?|pull\s+requests?)\s+"
THREADS = re.compile(
    rf"{NAME}{KIND}\d+(?:,?(?:\s+[a-z]+){{0,2}}\s+(?:{KIND}|(?<=and\s))\d+)*"
)
THREAD = re.compile(rf"(?:{NAME})?{KIND}(\d+)|(?<=and\s)(\d+)")
GUESS = re.compile(r"\b(Guess|Predict)\b")
SLIDERS = re.compile(r"\(sliders for (.+): run this cell")
# sliders of a notebook -> the figure that moves in their place
MOVING = {"gamma and beta": "scale", "exponent": "eps", "moved": "coupling"}
RUN_IT = "index.md#start"


@dataclass
class Page:
    """Markdown, and the pictures it shows by their path beside it."""

    text: str
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Extra:
    """A figure that only the site has: it moves, and stands still without scripts."""

    name: str
    below: str  # part of the source of the cell that it follows
    png: bytes
    alt: str


def lesson_page(nb, name, extra=None):
    """The page of one lesson.

    Args:
        nb: the notebook, with its stored outputs.
        name: such as 01_forward_pass; the page's address, and its figures' folder.
        extra: an `Extra` of this lesson, or None.
    """
    page, parts, guess = Page(""), [], False
    for at, cell in enumerate(nb.cells):
        if cell.cell_type == "markdown":
            guess = bool(GUESS.search(cell.source))
            parts.append(_prose(cell, nb.cells[at + 1 : at + 2], name))
        else:
            parts.append(_code(cell, page, name, guess))
            if extra and extra.below in cell.source:
                parts.append(_extra(extra, page, name))
                extra = None
    head = _front_matter(nb.cells[0].source)
    page.text = head + "\n\n".join(filter(None, parts)) + "\n"
    return page


def course_page(text, path):
    """A Markdown page of the course, such as README.md, with links that lead on."""
    return Page(_front_matter(text) + relinked(text, posixpath.dirname(path)) + "\n")


def front_page(text, stems):
    """README.md with the lessons first, and the site's table of contents."""
    head, *sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    sections.sort(key=lambda section: not section.startswith("## Lessons"))
    page = course_page(head + "".join(sections), "README.md")
    more = [name for name in PAGES.values() if name != "index"] + ["license"]
    page.text += _contents("Lessons", stems) + _contents("More", more)
    return page


def license_page(text):
    return Page(f"# License\n\n{_literal(text, 'wraps')}\n")


def _contents(caption, names):
    entries = "\n".join(names)
    return f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{entries}\n```\n"


def _front_matter(text):
    """What search engines and link previews show: the title, and the first sentence."""
    title, _, rest = text.partition("\n")
    sentences = re.split(r"(?<=\.)\s+", rest.strip(), maxsplit=2)
    about = " ".join(sentences[:2]).replace("\n", " ").replace("**", "")
    meta = {"description": about, "property=og:description": about}
    meta["property=og:title"] = title.removeprefix("# ")
    meta["property=og:type"] = "article"
    head = {"myst": {"html_meta": meta}}
    return f"---\n{json.dumps(head, ensure_ascii=False)}\n---\n\n"


# prose


def _prose(cell, following, name):
    tags = cell.metadata.get("tags", [])
    if "answer" in tags:
        return ""
    anchor = cell.id if "question" in tags else ""
    if following and "exercise" in following[0].metadata.get("tags", []):
        anchor = following[0].id.replace(KINDS["exercise"], "exercise-", 1)
    text = cell.source
    if anchor:
        text = re.sub(r"^(#+ )", rf"\1<!--id:{anchor}-->", text, count=1)
    if text.startswith("# "):
        text += f"\n\n{_ways_in(name)}"
    return relinked(HINT.sub(_hint, text), "notebooks")


def _ways_in(name):
    notebook = f"downloads/{name}.ipynb"
    return (
        f'<p class="ways-in">You read the reading edition. To do the exercises, '
        f'<a href="index.html#start">run the course</a>, or take this '
        f'<a href="{notebook}" download>notebook</a> alone.</p>'
    )


def _hint(match):
    # a blank line ends raw HTML, so that the hint itself is Markdown
    summary, body = match[1], match[2].strip("\n")
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>\n"


def relinked(text, folder):
    """Links of a page in `folder` of the repository, as links between pages.

    What the site does not hold keeps its name and loses its link.
    """
    out, end = [], 0
    for fence in FENCE.finditer(text):
        out += [_relink(text[end : fence.start()], folder), fence[0]]
        end = fence.end()
    return "".join([*out, _relink(text[end:], folder)])


def _relink(text, folder):
    def replace(match):
        image, label, target, anchor = match.groups(default="")
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        page = _page_of(path)
        if image:
            return f"![{label}]({posixpath.basename(path)})"
        return f"[{label}]({page}.md{anchor})" if page else f"`{path}`"

    return _cited(LINK.sub(replace, text))


def _cited(text):
    """Papers and threads that a text names, as links."""
    text = PAPER.sub(r"[\g<0>](https://arxiv.org/abs/\1)", text)
    return THREADS.sub(_threads, text)


def _threads(match):
    """Each thread of one repository as a link; the host sends issues on to pulls."""
    where = f"https://github.com/{match[1]}/issues"
    return THREAD.sub(lambda m: f"[{m[0]}]({where}/{m[2] or m[3]})", match[0])


def _page_of(path):
    if path in PAGES:
        return PAGES[path]
    if path == "LICENSE":
        return "license"
    stem, kind = posixpath.splitext(posixpath.basename(path))
    return stem if kind == ".ipynb" else ""


# code and outputs


def _code(cell, page, name, guess):
    tags = cell.metadata.get("tags", [])
    sliders = _sliders(cell)
    if "check" in tags:
        return ""
    if sliders is not None:
        return _moving(MOVING.get(sliders, ""))
    code = f"```python\n{cell.source}\n```"
    if "hidden" in tags:
        drawn = any("image/png" in output.get("data", {}) for output in cell.outputs)
        code = _fold("Code of this figure" if drawn else "Code", code, "code")
    if "exercise" in tags:
        return f"{code}\n\nWrite it in the notebook ([how to run it]({RUN_IT})): " + (
            "the cell below it there checks your answer and names known mistakes."
        )
    shown = "\n\n".join(_outputs(cell, page, name))
    if guess and shown:
        shown = _fold("Guess, then unfold", shown, "guess")
    return f"{code}\n\n{shown}"


def _extra(extra, page, name):
    path = f"figures/{name}/{extra.name}.png"
    page.files[path] = extra.png
    return f"{_figure(path, extra.alt)}\n\n{_moving(extra.name)}"


def _fold(summary, body, kind):
    return (
        f'<details class="{kind}"><summary>{summary}</summary>\n\n{body}\n\n</details>'
    )


def _sliders(cell):
    """Names of a cell's sliders, such as "gamma and beta"; None without sliders."""
    texts = [o.get("data", {}).get("text/plain", "") for o in cell.outputs]
    found = next(filter(None, map(SLIDERS.search, texts)), None)
    return found and found[1]


def _moving(figure):
    if not figure:
        return "*In the notebook, this figure has sliders.*"
    return (
        f'<figure class="moving" data-figure="{figure}">'
        "<noscript>With scripts switched on, a figure here moves. The one above shows "
        "the same without them.</noscript></figure>"
    )


def _outputs(cell, page, name):
    """Each output as Markdown; pictures go into the page's files."""
    alt = ""
    for at, output in enumerate(cell.outputs):
        data = output.get("data", {})
        if "image/png" in data:
            path = f"figures/{name}/{cell.id}{f'-{at}' if at else ''}.png"
            page.files[path] = base64.b64decode(data["image/png"])
            alt = output.metadata.get("image/png", {}).get("alt", "")
            yield _figure(path, alt)
        elif "text/html" in data:
            yield data["text/html"]
        elif text := _text(output, alt):
            yield _literal(text, "output")


def _text(output, alt):
    """What an output prints; not the line that says a figure's alt text once more."""
    text = output.get("text", output.get("data", {}).get("text/plain", ""))
    if alt:
        text = text.removeprefix(plots.printed(alt)).lstrip("\n")
    return text.rstrip()


def _figure(path, alt):
    quoted = json.dumps(alt, ensure_ascii=False)
    caption = re.sub("^[a-z]", lambda first: first[0].upper(), alt)
    return f"```{{figure}} {path}\n:alt: {quoted}\n\n{escaped(caption)}\n```"


def _literal(text, kind=""):
    fence = "`" * (3 + max(map(len, re.findall("`{3,}", text)), default=0))
    attribute = f"\n:class: {kind}" if kind else ""
    return f"{fence}{{code-block}} text{attribute}\n\n{text}\n{fence}"


def escaped(text):
    """Plain text as Markdown that shows it."""
    return re.sub(f"([{re.escape(string.punctuation)}])", r"\\\1", html.unescape(text))
