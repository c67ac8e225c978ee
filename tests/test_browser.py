"""The notebooks in real JupyterLab, driven through Chromium as a student would."""

import json
import os
import queue
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import jupytext
import nbformat
import pytest
from playwright.sync_api import expect, sync_playwright

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
SHORT = ("01", "02", "05", "07")  # lessons that run in JupyterLab every day
SCREENSHOTS = os.environ.get("COURSE_SCREENSHOTS")  # a folder to keep pictures in

SERVING = re.compile(r"http://(?:127\.0\.0\.1|localhost):\d+/lab\S*token=\w+")
STARTED = 120  # seconds until a server or a kernel is up
FINISHED = 300  # seconds until a whole notebook has run

WIDGET = "application/vnd.jupyter.widget-view+json"
# folded cells have no prompt on the page, so the notebook's model says what has run
MODEL = "jupyterapp.shell.currentWidget.content.model.toJSON()"
ENDED = f"""() => {{
    const code = {MODEL}.cells.filter(cell => cell.cell_type === "code");
    const failed = code.some(cell => cell.outputs.some(o => o.output_type === "error"));
    return failed || code.at(-1).execution_count !== null;
}}"""

# WCAG's contrast ratio of every cell's text with what is behind it; the smallest
CONTRAST = """table => {
    const numbers = color => color.match(/[\\d.]+/g).map(Number);
    const opaque = color => numbers(color).length < 4 || numbers(color)[3] === 1;
    const channel = v => v <= 10 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
    const light = color => numbers(color).slice(0, 3)
        .reduce((sum, v, i) => sum + [0.2126, 0.7152, 0.0722][i] * channel(v), 0.05);
    const style = element => getComputedStyle(element);
    const behind = element => opaque(style(element).backgroundColor)
        ? style(element).backgroundColor : behind(element.parentElement);
    return Math.min(...[...table.querySelectorAll("caption, th, td")].map(cell => {
        const pair = [light(style(cell).color), light(behind(cell))];
        return Math.max(...pair) / Math.min(...pair);
    }));
}"""
READABLE = 4.5  # WCAG 2, level AA


# the server that `course.py lab` starts, in a copy of the course


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    copy = tmp_path_factory.mktemp("browser") / "my course"
    ignored = shutil.ignore_patterns(".*", "work", "build", "tests", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignored)
    yield copy
    shutil.rmtree(copy, ignore_errors=True)


@pytest.fixture(scope="module")
def lab(course):
    """The address that the student is told."""
    process = subprocess.Popen(
        [sys.executable, "course.py", "lab", "--no-browser", "--port", _free_port()]
        + ["--LabApp.expose_app_in_browser=True"],
        cwd=course,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    try:
        address = _address(process)
        yield address
        _ask(address, "POST", "/api/shutdown")
        process.wait(STARTED)
    finally:
        process.kill()


def _environment():
    """As in an active conda environment, so that this interpreter serves."""
    return {
        **os.environ,
        "CONDA_PREFIX": sys.prefix,
        "PIP_NO_INDEX": "1",  # nothing may be installed here
        "PYTHONUNBUFFERED": "1",
    }


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def _address(process):
    """Wait for the address to be printed; read on, so that the server never blocks."""
    lines = queue.Queue()

    def read():
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    printed = []
    while line := lines.get(timeout=STARTED):
        if found := SERVING.search(line):
            return found.group()
        printed.append(line)
    raise RuntimeError("course.py lab stopped:\n" + "".join(printed))


def _ask(address, method, path):
    parts = urlsplit(address)
    [token] = parse_qs(parts.query)["token"]
    request = urllib.request.Request(
        f"http://{parts.netloc}{path}",
        method=method,
        headers={"Authorization": f"token {token}"},
    )
    with urllib.request.urlopen(request, timeout=STARTED) as answer:
        return answer.read()


# the browser


def _chromium():
    """Debian's Chromium, else Chrome, which Playwright finds on every system."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    return {"executable_path": found} if found else {"channel": "chrome"}


@pytest.fixture(scope="module")
def browser():
    # root, a container's only user, cannot have Chromium's own sandbox
    options = ["--no-sandbox", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**_chromium(), args=options)
        yield browser
        browser.close()


class Notebook:
    """One notebook, open in JupyterLab."""

    def __init__(self, page, name):
        self.page, self.name = page, name
        self.code = page.locator(".jp-Notebook .jp-CodeCell")
        self.figures = self.code.locator(".jp-RenderedImage img")
        self.widgets = self.code.locator(".jp-OutputArea-output > .jupyter-widgets")

    def run_all(self):
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_text("Run All Cells", exact=True).click()
        self.page.wait_for_function(ENDED, timeout=FINISHED * 1000)

    def content(self):
        return nbformat.from_dict(self.page.evaluate(MODEL))

    def replace(self, old, new):
        """Type over the code cell that contains `old`; run it and the one below."""
        self.code.filter(has_text=old).first.locator(".cm-content").click()
        self.page.keyboard.press("ControlOrMeta+a")
        self.page.keyboard.insert_text(new)
        self.page.keyboard.press("Shift+Enter")
        self.page.keyboard.press("Shift+Enter")

    def choose_theme(self, theme):
        change = "jupyterapp.commands.execute('apputils:change-theme', {theme})"
        self.page.evaluate(f"theme => {change}", theme)
        chosen = self.page.locator(f"body[data-jp-theme-name='{theme}']")
        chosen.wait_for(state="attached")

    def picture(self, title, of):
        """Keep a picture with `of` in view, for people to look at."""
        of.scroll_into_view_if_needed()
        expect(of).to_be_in_viewport()
        if SCREENSHOTS:
            self.page.screenshot(path=Path(SCREENSHOTS, f"{self.name}-{title}.png"))


@pytest.fixture
def open_notebook(lab, browser):
    """Open a notebook in a tab of its own; at the end its kernel is shut down."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    asked = []
    page.on("request", lambda request: asked.append(urlsplit(request.url)))

    def open_notebook(name):
        path = f"/lab/workspaces/{name}/tree/{name}.ipynb"
        page.goto(urlsplit(lab)._replace(path=path).geturl())
        # until the kernel is there, JupyterLab ignores Run All
        status = page.locator("#jp-main-statusbar")
        expect(status).to_contain_text("| Idle", timeout=STARTED * 1000)
        return Notebook(page, name)

    yield open_notebook
    page.close()
    for kernel in json.loads(_ask(lab, "GET", "/api/kernels")):
        _ask(lab, "DELETE", f"/api/kernels/{kernel['id']}")
    hosts = {url.hostname for url in asked if url.scheme in ("http", "https")}
    assert hosts <= {"localhost", "127.0.0.1"}, "a page asked another host"


# what a student meets


def _code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _showing(notebook, mime):
    """How many outputs of this MIME type each code cell has."""
    return {
        cell.id: sum(mime in output.get("data", ()) for output in cell.outputs)
        for cell in _code(notebook)
    }


def _errors(notebook):
    return [
        f"{cell.id}: {output.ename}: {output.evalue}"
        for cell in _code(notebook)
        for output in cell.outputs
        if output.output_type == "error"
    ]


def daily(name):
    """A short lesson as it is; a long one, whose cells nbval runs each day, as long."""
    return pytest.param(name, marks=[] if name[:2] in SHORT else pytest.mark.long)


@pytest.mark.parametrize("name", map(daily, NOTEBOOKS))
def test_run_all_reaches_the_end_of_an_untouched_copy(open_notebook, name):
    notebook = open_notebook(name)
    notebook.picture("opened", notebook.code.first)
    assert not any(cell.outputs for cell in _code(notebook.content()))
    notebook.run_all()
    ran = notebook.content()
    assert _errors(ran) == []
    counts = [cell.execution_count for cell in _code(ran)]
    assert counts == list(range(1, len(counts) + 1))
    stored = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    assert _showing(ran, "image/png") == _showing(stored, "image/png")
    for cell in _code(ran):
        if cell.id.startswith("check-"):
            assert "○ not attempted" in cell.outputs[0].data["text/html"], cell.id
    _look_at_figures(notebook, ran)
    notebook.picture("end", notebook.code.last)


def _look_at_figures(notebook, ran):
    if shown := sum(_showing(ran, "image/png").values()):  # drawn after cells have run
        last = notebook.figures.nth(shown - 1)
        expect(last).to_be_attached(timeout=1000 * STARTED)
    for number, figure in enumerate(notebook.figures.all(), start=1):
        notebook.picture(f"figure-{number}", figure)
        assert figure.evaluate("image => image.naturalWidth") > 300
    expect(notebook.widgets).to_have_count(sum(_showing(ran, WIDGET).values()))
    for number, widget in enumerate(notebook.widgets.all(), start=1):
        notebook.picture(f"widget-{number}", widget)
        expect(widget.locator("img").first).to_be_visible()


def _solution(name):
    """A cell of lesson 01 as a student would type it."""
    lesson = jupytext.read(ROOT / "lessons" / "01_forward_pass.md")
    [cell] = [cell for cell in lesson.cells if cell.metadata.get("name") == name]
    lines = cell.source.splitlines()
    return "\n".join(line for line in lines if not line.endswith(" SOLUTION"))


def test_a_typed_solution_turns_its_table_to_full_marks(open_notebook):
    notebook = open_notebook("01_forward_pass")
    notebook.run_all()
    solution = _solution("batchnorm-forward")
    notebook.replace("def batchnorm_forward(", solution)
    table = notebook.code.filter(has_text="check.batchnorm_forward(").locator("table")
    full_marks = re.compile(r"batchnorm_forward: (\d+) of \1 points")
    expect(table.locator("caption")).to_have_text(full_marks, timeout=30_000)
    notebook.picture("solved", table)
    rows = table.locator("tbody tr")
    assert rows.count() > 0
    expect(rows.filter(has_not_text="✓")).to_have_count(0)
    cells = {cell.id: cell for cell in notebook.content().cells}
    assert cells["ex-batchnorm-forward"].source == solution
    assert "○ not attempted" in str(cells["check-batchnorm-inference"].outputs)


def test_a_table_names_a_mistake_and_is_readable_in_every_theme(open_notebook):
    notebook = open_notebook("01_forward_pass")
    notebook.run_all()
    right = _solution("batchnorm-forward")
    wrong = right.replace("np.sqrt(var + eps)", "(np.sqrt(var) + eps)")
    assert wrong != right
    notebook.replace("def batchnorm_forward(", wrong)
    cell = notebook.code.filter(has_text="check.batchnorm_forward(")
    table = cell.locator("table")
    expect(table.locator("tr", has_text="✗")).to_have_count(1)
    named = "eps is added to the root, not inside it"
    expect(cell.locator("p strong")).to_contain_text(named)
    untouched = notebook.code.filter(has_text="check.batchnorm_inference(")
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        notebook.choose_theme(theme)
        notebook.picture(f"mistake-{theme.split()[1].lower()}", table)
        for shown in (table, untouched.locator("table")):
            assert shown.evaluate(CONTRAST) >= READABLE
