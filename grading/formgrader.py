"""Mark written answers: `python -m grading.formgrader [--into grades]`.

Opens nbgrader's formgrader on the gradebook that `grade` fills. Each answer stands
below its question's rubric, which students never see. What is typed there is in the
gradebook at once, and in the next report.
"""

import argparse
import copy
import html
import os
import re
import sys
from functools import cache
from pathlib import Path

import nh3
from jinja2 import pass_context
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.serverapp import ServerApp
from nbconvert.exporters import HTMLExporter
from nbformat.v4 import new_markdown_cell
from nbgrader.server_extensions.formgrader import handlers
from nbgrader.server_extensions.formgrader.formgrader import FormgradeExtension
from tornado import web
from traitlets.config import Config

from tools import build

from . import markup, records

ROOT = Path(__file__).resolve().parents[1]
START = "/formgrader/gradebook"

TAGS = markup.TAGS | set("caption details h1 h2 h3 h4 h5 h6 img summary".split())
ATTRIBUTES = {
    "a": {"href"},
    "img": {"alt", "src"},
    "ol": {"start"},
    "td": {"colspan"},
    "th": {"colspan", "scope"},
}
SHOWN = ("text/html", "text/plain", "image/png")  # of a cell's outputs
NAME = re.compile("[a-z0-9-]+")  # what a lesson calls its cells

# nbgrader's page asks a server for MathJax; without a network it must work as well
HEAD = """
<script>
window.MathJax = window.MathJax || {Hub: {Config() {}, Queue() {},
  Startup: {signal: {Interest(tell) { tell("End"); }}}}};
</script>
<style>
.rubric { background: #fff8e1; border-left: 4px solid #9a6b00; padding: 0.5em 1em;
  margin: 0.5em 0; }
.rubric-head { font-weight: bold; color: #6b4a00; }
.rendered_html table { border-collapse: collapse; }
.rendered_html th, .rendered_html td { text-align: left; vertical-align: top;
  padding: 0.1em 1em 0.1em 0; }
.live-notebook a { pointer-events: none; color: inherit; }
</style>
"""


@cache
def rubrics():
    """The rubric of each question, by the id of the answer's cell."""
    lessons, _ = build.load(ROOT)
    return {cell.id: cell.source for each in lessons for cell in each.of("rubric")}


class Exporter(HTMLExporter):
    """A graded notebook as a page: rubrics in sight, and nothing of a student's runs.

    The page may write grades, so a script in an answer could give its author points.
    """

    def from_notebook_node(self, nb, resources=None, **options):
        resources = {key: escaped(value) for key, value in (resources or {}).items()}
        page, resources = super().from_notebook_node(prepared(nb), resources, **options)
        return page.replace("<body>", f"{HEAD}<body>", 1), resources

    @pass_context
    def markdown2html(self, context, source):
        source = markup.readable(source)
        if markup.too_much(source):
            text = f"<pre>{html.escape(source)}</pre>"
        else:
            text = markup.drawn(clean(super().markdown2html(context, source)))
        if "rubric" not in context["cell"].metadata:
            return text
        head = "Rubric: you see it, students do not"
        return (
            f'<aside class="rubric" aria-label="Rubric">'
            f'<p class="rubric-head">{head}</p>{text}</aside>'
        )


def exporter():
    """What makes the pages, with nbgrader's template."""
    return Exporter(
        template_name="formgrade",
        extra_template_basedirs=[handlers.template_path],
        exclude_anchor_links=True,
    )


def escaped(value):
    return html.escape(value) if isinstance(value, str) else value


def prepared(notebook):
    """A copy with rubrics above the answers, and without what could run."""
    made, cells = copy.deepcopy(notebook), []
    for cell in made.cells:
        graded = cell.metadata.get("nbgrader", {})
        name = str(graded.get("grade_id", ""))
        cell.metadata = {"nbgrader": graded} if NAME.fullmatch(name) else {}
        cell.pop("attachments", None)
        if cell.cell_type == "raw":  # shown as it was typed
            cell.update(cell_type="code", outputs=[], execution_count=None)
        if cell.cell_type == "code":
            cell.outputs = [harmless(output) for output in cell.outputs]
        if name in rubrics() and cell.metadata:
            cells.append(new_markdown_cell(rubrics()[name], metadata={"rubric": True}))
        cells.append(cell)
    made.cells = cells
    return made


def harmless(output):
    """An output without scripts and without kinds that nobody asked for."""
    if "data" in output:
        output.metadata = {}
        output.data = {k: v for k, v in output.data.items() if k in SHOWN}
        if "text/html" in output.data:
            output.data["text/html"] = clean("".join(output.data["text/html"]))
    return output


def clean(dirty):
    """HTML without scripts, styles and names; images only where they are in it."""
    text = nh3.clean(
        dirty,
        tags=TAGS,
        attributes=ATTRIBUTES,
        attribute_filter=kept,
        url_schemes={"http", "https", "mailto", "data"},
    )
    return re.sub(r"<img(?![^>]* src=)[^>]*>", "(image)", text)


def kept(tag, name, value):
    """An attribute's value, or None where it leads to what must not be loaded."""
    allowed = {"src": "data:image/png;base64,", "href": "https?://|mailto:"}
    return value if re.match(allowed.get(name, ""), value) else None


# the server


class ToTheAnswers(JupyterHandler):
    """nbgrader's other pages hand out and grade: that is not done there."""

    @web.authenticated
    def get(self, *_):
        self.redirect(self.base_url.rstrip("/") + START)


class NotHere(JupyterHandler):
    """nbgrader's own autograde would run students' code without the sandbox."""

    @web.authenticated
    def post(self, *_):
        raise web.HTTPError(403, "Grade with: python3 course.py grade")

    put = post


CLOSED = [
    (r"/formgrader/?", ToTheAnswers),
    (r"/formgrader/manage_(?:assignments|submissions|students).*", ToTheAnswers),
    (r"/formgrader/api/assignment/[^/]+", NotHere),
    (r"/formgrader/api/(?:assignment|submission)/[^/]+/.*", NotHere),
]


class Extension(FormgradeExtension):
    """nbgrader's pages on our gradebook, whatever the user has configured."""

    url_prefix = "."

    def load_config_file(self, **_):
        """No configuration file decides whose grades these are."""

    def init_tornado_settings(self, webapp):
        super().init_tornado_settings(webapp)
        webapp.settings.update(nbgrader_exporter=exporter(), nbgrader_bad_setup=False)

    def init_handlers(self, webapp):
        base = webapp.settings["base_url"].rstrip("/")
        webapp.add_handlers(".*$", [(base + path, page) for path, page in CLOSED])
        super().init_handlers(webapp)


class Server(ServerApp):
    """A Jupyter server with these pages and nothing else."""

    folder = Path()  # where the gradebook is

    def find_server_extensions(self):
        self.jpserver_extensions = {}

    def load_server_extensions(self):
        config = Config()
        config.CourseDirectory.root = str(self.folder / "nbgrader")
        config.CourseDirectory.db_url = records.database(self.folder)
        config.Exchange.root = config.CourseDirectory.root  # not used, but asked for
        extension = Extension(parent=self, config=config)
        extension.root_dir, extension.log = self.root_dir, self.log
        extension.initialize([])
        extension.init_tornado_settings(self.web_app)
        extension.init_handlers(self.web_app)


def options(folder, port=None, browser=True):
    """What the server is started with."""
    settings = {
        "root_dir": str(folder / "nbgrader"),
        "default_url": START,
        "open_browser": browser,
        "terminals_enabled": False,
        "answer_yes": True,
        "log_level": "WARN",
        "allow_root": hasattr(os, "geteuid") and os.geteuid() == 0,
        "tornado_settings": {"headers": {"Content-Security-Policy": POLICY}},
    }
    if port:
        settings.update(port=port, port_retries=0)
    return Config({"ServerApp": settings})


# the second lock: no page may talk to anybody but this server
POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' https://cdnjs.cloudflare.com",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self' data: https://cdnjs.cloudflare.com",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="course.py formgrader", description=__doc__.partition("\n\n")[2]
    )
    help = "the folder that grade wrote; grades/ by default"
    parser.add_argument("--into", type=Path, default=records.GRADES, help=help)
    parser.add_argument("--port", type=int, help="serve here")
    parser.add_argument("--no-browser", action="store_true", help="print the address")
    args = parser.parse_args(argv)
    folder = args.into.resolve()
    if not (folder / "gradebook.db").exists():
        sys.exit(
            f"There is nothing to mark yet: {folder} has no gradebook.\n"
            "First grade what was handed in: python3 course.py grade FOLDER"
        )
    # nbgrader looks for alembic by its name
    scripts = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([scripts, os.environ.get("PATH", "")])
    print(f"Opening the answers in {folder}. Ctrl-C here stops it.", flush=True)
    Server.folder = folder
    config = options(folder, args.port, not args.no_browser)
    Server.launch_instance(argv=[], config=config)


if __name__ == "__main__":
    main()
