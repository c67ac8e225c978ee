"""Written answers, marked in nbgrader's page by somebody who sees the rubric."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output, new_raw_cell
from playwright.sync_api import expect, sync_playwright

from grading import formgrader, records, report
from grading.page import page as page_of
from grading.verdict import GRADED, Answer, Exercise, Receipt, Row, Verdict
from tools import build
from tools.lesson import student_view

ROOT = Path(__file__).resolve().parents[1]
LESSON = build.load(ROOT)[0][0]
SERVING = re.compile(r"http://(?:127\.0\.0\.1|localhost):\d+/\S*token=\w+")
expect.set_options(timeout=60_000)  # a machine may have much else to do
ATTACK = (
    "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'>"
    "<svg onload='window.ran = 3'></svg><iframe srcdoc='<script>ran = 4</script>'>"
    "</iframe> [x](javascript:window.ran=5) <b onclick='ran = 6'>b</b>"
)
ANSWER = f"It **cancels**: a < b & $x_1$.\n\n{ATTACK}"


# the page


def shown(*cells):
    """The page of a notebook with these cells."""
    notebook = nbformat.v4.new_notebook(cells=list(cells))
    resources = {"student": "<b>ada</b>", "index": 0, "total": 1}
    return formgrader.exporter().from_notebook_node(notebook, resources)[0]


def running(page):
    """What may run in a page: scripts, foreign pages, handlers, and links to code."""
    soup = BeautifulSoup(page, "html.parser")
    found = [tag.name for tag in soup.find_all(["script", "iframe", "svg", "object"])]
    for tag in soup.find_all(True):
        handlers = (name for name in tag.attrs if name.startswith("on"))
        found += [f"{tag.name} {name}" for name in handlers]
        if re.match(r"\s*(javascript|data:text)", tag.get("href", ""), re.IGNORECASE):
            found.append(f"{tag.name} {tag['href']}")
    return sorted(found)


def answer_cell(source=ANSWER, name="answer-redundant-bias"):
    meta = {"grade": True, "solution": True, "grade_id": name, "points": 1}
    return new_markdown_cell(source, metadata={"nbgrader": {**meta, "task": False}})


def test_each_answer_stands_below_its_rubric():
    page = shown(*student_view(LESSON).cells)
    at = 0
    for cell in LESSON.of("question"):
        rubric = page.index('<aside aria-label="Rubric"', at)
        at = page.index(f'id="answer-{cell.name}"', rubric)
    assert page.count('<aside aria-label="Rubric"') == len(LESSON.of("question"))
    assert "Model answer." in page


def test_a_students_notebook_stays_as_it_is():
    notebook = student_view(LESSON)
    before = json.dumps(notebook)
    formgrader.prepared(notebook)
    assert json.dumps(notebook) == before and "Model answer" not in before


def test_nothing_of_a_student_can_run():
    html = {"text/html": f"<table><tr><th scope='col'>✓{ATTACK}</th></tr></table>"}
    scripts = {"application/javascript": "ran()", "image/svg+xml": ATTACK}
    outputs = [new_output("display_data", {**html, **scripts})]
    outputs.append(new_output("stream", text=ATTACK))
    cells = [
        answer_cell(),
        new_markdown_cell(ATTACK, metadata={"rubric": True, "tags": [ATTACK]}),
        new_raw_cell(ATTACK, metadata={"raw_mimetype": "text/html"}),
        new_code_cell(ATTACK, outputs=outputs, metadata={"tags": [ATTACK]}),
        answer_cell(name='x"><script>window.ran = 7</script>'),
    ]
    page = shown(*cells)
    assert running(page) == running(shown(answer_cell("fine")))
    assert len(running(f"<p>{ATTACK}</p>")) == 6  # it does find them
    assert page.count('<aside aria-label="Rubric"') == 1
    assert "<b>ada</b>" not in page
    assert "<strong>cancels</strong>" in page and '<th scope="col">✓' in page


@pytest.mark.parametrize(
    ("dirty", "cleaned"),
    [
        ("<img alt='a' src='data:image/png;base64,AA'>", None),
        ("<img src='https://example.org/a.png'>", "(image)"),
        ("<img src='data:image/svg+xml,<svg>'>", "(image)"),
        ("<a href='data:text/html,x'>x</a>", '<a rel="noopener noreferrer">x</a>'),
        ("<details><summary>h</summary>t</details>", None),
    ],
)
def test_what_may_stay(dirty, cleaned):
    assert formgrader.clean(dirty) == (cleaned or dirty.replace("'", '"'))


# the server and the browser


@pytest.fixture
def grades(tmp_path):
    """A class of two, graded and recorded as `grade` does it."""
    folder = tmp_path / "grades of é"
    with records.Records(folder) as kept:
        for student in ("ada", "bob"):
            made = verdict(student)
            kept.add(made)
            kept.record(made, handed_in(), page_of(handed_in(), made))
    return folder


def verdict(student):
    rows = (Row("values of y", "✓"),)
    return Verdict(
        student,
        LESSON.name,
        GRADED,
        "",
        Receipt("ab" * 32, "0123456789ab", 1, "2026-11-20T17:03:11+00:00"),
        exercises={
            cell.function: Exercise(cell.meta["points"], cell.meta["points"], rows)
            for cell in LESSON.of("exercise")
        },
        answers={
            cell.name: Answer(ANSWER, cell.meta["points"])
            for cell in LESSON.of("question")
        },
    )


def handed_in():
    notebook = student_view(LESSON)
    for cell in notebook.cells:
        if cell.id.startswith("answer-"):
            cell.source = ANSWER
    return build.dumps(notebook).encode()


@pytest.fixture
def address(grades):
    """What the instructor is told; the server runs in another folder."""
    command = [sys.executable, "-P", "-m", "grading.formgrader", "--no-browser"]
    with subprocess.Popen(
        [*command, "--into", grades],
        cwd=grades.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    ) as server:
        try:
            lines = iter(server.stdout.readline, "")
            found = next(filter(None, map(SERVING.search, lines)), None)
            assert found, "the server did not start"
            threading.Thread(target=server.stdout.read, daemon=True).start()
            yield found.group()
        finally:
            server.terminate()


@pytest.fixture
def page():
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    options = {"executable_path": found} if found else {"channel": "chrome"}
    # an instructor may have no network; MathJax is then not to be had
    offline = "--host-resolver-rules=MAP * ~NOTFOUND,EXCLUDE localhost"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**options, args=["--no-sandbox", offline])
        page = browser.new_page()
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        yield page
        browser.close()


@pytest.mark.browser
def test_points_that_are_typed_are_in_the_next_report(grades, address, page):
    page.goto(address)
    for _ in range(2):  # the lesson, and its one notebook
        page.locator("td.name").get_by_role("link", name=LESSON.name).click()
    expect(page.get_by_role("link", name="Submission #2")).to_be_visible()
    page.get_by_role("button", name="Show All Names").click()
    page.get_by_role("link", name="ada").click()
    expect(page.locator(".rubric")).to_have_count(len(LESSON.of("question")))
    for cell in LESSON.of("question"):
        expect(page.locator(f"#answer-{cell.name}")).to_be_visible()
    type_in(page, "#answer-redundant-bias", "0.5")
    type_in(page, "#answer-redundant-bias-comment", "Where does **b** go?")
    assert page.evaluate("window.ran") is None and page.errors == []
    assert closed(page) == [403, 403, 403]

    students = report.write(records.verdicts(grades), [], grades / "report", [LESSON])
    ada, bob = students
    assert ada.verdicts[LESSON.name].answers["redundant-bias"].points == 0.5
    assert bob.verdicts[LESSON.name].answers["redundant-bias"].points is None
    told = (grades / "report/feedback/ada.html").read_text(encoding="utf-8")
    assert "0.5 of 1 point" in told and "Where does <strong>b</strong> go?" in told
    assert "Model answer" not in told and "<script" not in told
    for path in (grades / "nbgrader/autograded").rglob("*.ipynb"):
        assert "Model answer" not in path.read_text(encoding="utf-8")


def type_in(page, field, text):
    """Type as a person does, and wait until it is in the gradebook."""
    page.locator(field).fill(text)
    with page.expect_response(lambda answer: answer.request.method == "PUT") as saved:
        page.locator(field).press("Tab")
    assert saved.value.ok


def closed(page):
    """What nbgrader's own buttons to grade and to hand out answer."""
    return page.evaluate(
        """async name => {
            const headers = {"X-XSRFToken": document.cookie.match(/_xsrf=([^;]*)/)[1]};
            const ask = path => fetch(
                `/formgrader/api/${path}`, {method: "POST", headers});
            const paths = [`submission/${name}/ada/autograde`,
                `assignment/${name}/assign`, `assignment/${name}/release_feedback`];
            return Promise.all(paths.map(async path => (await ask(path)).status));
        }""",
        LESSON.name,
    )


def test_nothing_to_mark_is_said_plainly(tmp_path):
    with pytest.raises(SystemExit, match="nothing to mark yet.*\n.*course.py grade"):
        formgrader.main(["--into", str(tmp_path)])
    assert not list(tmp_path.iterdir())
