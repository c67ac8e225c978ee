"""What grading tells instructors, platforms and students."""

import csv
import io
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

import bn_checks as check
from grading import markup, report, roster
from grading.verdict import (
    GRADED,
    NEEDS_REVIEW,
    REJECTED,
    Answer,
    Exercise,
    Receipt,
    Row,
    Verdict,
)
from tools import build

ROOT = Path(__file__).resolve().parents[1]
LESSONS = build.load(ROOT)[0]
RECEIPT = Receipt(
    "c0ffee" * 8, "0123456789ab", 815, "2026-11-20T17:03:11+00:00", "a.zip"
)
SCRIPT = "<script>alert(1)</script>"


def unbiased(x, gamma, beta, eps=1e-5):
    """A wrong forward pass that quotes its input when it is asked for one sample."""
    if len(x) == 1:
        raise KeyError(f"hidden {x}")
    mu, var = x.mean(0), x.var(0, ddof=1)
    return gamma * (x - mu) / (var + eps) ** 0.5 + beta, mu, var


def stub(*args):
    raise NotImplementedError


def graded(name, student, points=3):
    """An exercise of a verdict, from the real check."""
    found = check.exercise(name).score(student, points, seed=7)
    rows = []
    for row in found.rows:
        told = (m.name, m.says, m.section) if (m := row.mistake) else ("", "", "")
        rows.append(Row(row.title, row.state, tuple(row.detail), *told))
    return Exercise(float(found), points, tuple(rows))


WRONG = graded("batchnorm_forward", unbiased)
RIGHT = graded("batchnorm_forward", check.exercise("batchnorm_forward").reference)
BLANK = graded("update_running_stats", stub)


def verdict(student, lesson="01_forward_pass", **facts):
    made = Verdict(
        student,
        lesson,
        GRADED,
        "",
        RECEIPT,
        exercises={"batchnorm_forward": WRONG, "update_running_stats": BLANK},
        answers={"redundant-bias": Answer("It *cancels*.", 1, 0.5, "Say **why**.")},
    )
    return replace(made, **facts)


WAITING = {"answers": {"redundant-bias": Answer("It cancels.", 1)}}
REVIEW = {"status": NEEDS_REVIEW, "reason": f"the kernel died {SCRIPT}"}
NOTHING = Verdict("", "", REJECTED, "a PDF, not a notebook", RECEIPT)


def written(folder, *verdicts, rejected=(), **options):
    report.write(verdicts, rejected, folder, LESSONS, **options)
    return folder


def page(folder, student):
    return (folder / "feedback" / f"{student}.html").read_text(encoding="utf-8")


def rows(folder, name):
    text = (folder / name).read_bytes().decode("utf-8-sig")
    return list(csv.reader(io.StringIO(text)))


# tables


def test_grades_have_a_row_per_student(tmp_path):
    second = verdict("ada", "02_backward_derivation", exercises={}, **WAITING)
    written(tmp_path, verdict("bob", **REVIEW), verdict("ada"), second)
    head, ada, bob = rows(tmp_path, "grades.csv")
    assert head == [
        *("student", "name"),
        *(f"01_forward_pass {what}" for what in ("points", "of", "status")),
        *(f"02_backward_derivation {what}" for what in ("points", "of", "status")),
        *("points", "of", "status"),
    ]
    one_to_mark = ["0", "1", "1 task to be marked"]
    assert ada == [
        "ada",
        "",
        "1.4",
        "7",
        "final",
        *one_to_mark,
        "1.4",
        "8",
        "provisional",
    ]
    missing = ["", "1", "not handed in"]
    assert bob[2:] == ["1.4", "7", "needs review", *missing, "1.4", "8", "provisional"]


def test_who_sent_what_no_grade_was_made_of_is_not_missing(tmp_path):
    text = "id,name\nada,A\nbob,B\ncem,C\n"
    listed = roster.Roster(text.encode()).rows
    sent = [replace(NOTHING, student=who) for who in ("ada", "bob")]
    written(tmp_path, verdict("ada"), rejected=sent, rows=listed)
    ada, bob, cem = (row[-6:] for row in rows(tmp_path, "grades.csv")[1:])
    assert ada[-1] == bob[-1] == "provisional"
    assert bob[2] == "a file was rejected" and cem[2] == "not handed in"
    for who in ("ada", "bob"):
        assert "of <bdi>a.zip</bdi>: a PDF, not a notebook." in page(tmp_path, who)
    assert "1 student of the roster handed in nothing: <bdi>cem" in overview(tmp_path)


def test_spreadsheets_read_the_letters(tmp_path):
    written(tmp_path, verdict("ada", platform={"name": "Zoë 李", "kind": "", "id": ""}))
    assert (tmp_path / "grades.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    assert rows(tmp_path, "grades.csv")[1][1] == "Zoë 李"


def test_tasks_have_a_row_each_with_their_mistakes(tmp_path):
    written(tmp_path, verdict("ada", **WAITING))
    assert rows(tmp_path, "tasks.csv")[1:] == [
        ["ada", "01_forward_pass", "exercise", "batchnorm_forward", "0.9", "3"]
        + ["the variance divides by the count minus 1"],
        ["ada", "01_forward_pass", "exercise", "update_running_stats", "0", "3", ""],
        ["ada", "01_forward_pass", "question", "redundant-bias", "", "1", ""],
    ]


def test_platforms_get_final_points_only(tmp_path):
    verdicts = verdict("ada"), verdict("bob", **WAITING), verdict("cy", **REVIEW)
    written(tmp_path, *verdicts)
    assert [row[-1] for row in rows(tmp_path, "canvas.csv")[2:]] == ["1.4", "", ""]
    assert [row[-1] for row in rows(tmp_path, "moodle.csv")[1:]] == ["1.4", "", ""]
    written(tmp_path, *verdicts, provisional=True)
    assert [row[-1] for row in rows(tmp_path, "canvas.csv")[2:]] == [
        "1.4",
        "0.9",
        "1.4",
    ]


def test_canvas_finds_its_students(tmp_path):
    known = {"kind": "canvas", "id": "4711", "name": "lovelaceada"}
    written(tmp_path, verdict("ada", platform=known), verdict("bob"))
    head, most, ada, bob = rows(tmp_path, "canvas.csv")
    assert head == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"] + [
        "01_forward_pass"
    ]
    assert most == ["    Points Possible", "", "", "", "", "7"]
    assert ada[:4] == ["lovelaceada", "4711", "", ""]
    assert bob[:4] == ["bob", "", "", "bob"]


def test_moodle_gets_a_worksheet_where_its_numbers_are_known(tmp_path):
    known = {"kind": "moodle", "id": "1234", "name": "Ada Lovelace"}
    written(tmp_path, verdict("ada", platform=known), verdict("bob"))
    head, *found = rows(tmp_path, "moodle-01_forward_pass.csv")
    assert head == ["Identifier", "Full name", "Grade", "Maximum grade"]
    assert found == [["Participant 1234", "Ada Lovelace", "1.4", "7"]]
    assert rows(tmp_path, "moodle.csv")[1] == ["ada", "Ada Lovelace", "1.4"]


@pytest.mark.parametrize(
    "start", ["=", "+", "-", "@", "\t=", "\r=", " =", "＝", "\u200b="]
)
def test_no_name_is_a_formula(tmp_path, start):
    name = f"{start}cmd|' /C calc'!A0"
    known = {"kind": "moodle", "id": "1", "name": name}
    written(tmp_path, verdict("ada", platform=known))
    for path in tmp_path.glob("*.csv"):
        for row in rows(tmp_path, path.name):
            for value in row:
                assert not value.strip().startswith(report.FORMULA), path.name


# a student's page


def test_a_student_reads_what_was_found(tmp_path):
    text = page(written(tmp_path, verdict("ada")), "ada")
    assert "<code>batchnorm_forward</code>: 0.9 of 3 points" in text
    assert "the variance divides by the count minus 1" in text
    assert "<code>update_running_stats</code>: 0 of 3 points, not attempted" in text
    assert "A bias before batch norm · 0.5 of 1 point" in text
    assert "It <em>cancels</em>." in text and "Say <strong>why</strong>." in text
    assert RECEIPT.sha256 in text and RECEIPT.time in text


def test_a_page_says_what_is_wrong_once_and_what_could_not_be_judged(tmp_path):
    row = Row("values of y", "✗", says="Your y is nan.", section="section 4")
    rows = (row, Row("float32 in, float32 out", "–", ("not judged, because of y",)))
    written(
        tmp_path, verdict("ada", exercises={"batchnorm_forward": Exercise(0, 3, rows)})
    )
    text = page(tmp_path, "ada")
    assert text.count("Your y is nan.") == 1 and "Reread section 4." in text
    assert text.index("Your y is nan.") < text.index("<caption>What the check of")
    assert "– not judged" in text and "not attempted" not in text


def test_a_page_says_what_awaits_a_person(tmp_path):
    folder = written(tmp_path, verdict("ada", **WAITING), verdict("bob", **REVIEW))
    assert "not marked yet, of 1 point" in page(folder, "ada")
    assert "so far" in page(folder, "ada")
    assert "A person will look at this notebook" in page(folder, "bob")
    judged = Exercise(None, 3, (), "it could not be called")
    written(tmp_path, verdict("ada", exercises={"batchnorm_forward": judged}))
    assert "to be marked by a person, of 3 points" in page(folder, "ada")


def test_no_page_shows_hidden_inputs_the_seed_or_another_student(tmp_path):
    quoted = [line for row in WRONG.rows for line in row.detail]
    assert any("hidden [[" in line for line in quoted)  # there is something to hide
    assert any(re.search(r"got [-\d.]+, want [-\d.]+", line) for line in quoted)
    folder = written(tmp_path, verdict("ada"), verdict("bob"))
    text = page(folder, "ada")
    assert "hidden" not in text
    assert "raised KeyError, want a ValueError" in text
    assert not re.search(r": got .*, want ", text)
    assert "of 60 values of y are right" in text
    assert str(RECEIPT.seed) not in text and RECEIPT.source not in text
    assert "bob" not in text and "rubric" not in text.lower()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("y[0, 0]: got 1, want 2", []),
        ("dx[0, 0] is 43.178 alone and 45.3996 in a batch", []),
        ("a column of dx sums to 3.58e+03, want 0", []),
        ("raised ValueError: [0.25 0.5]\nand more", ["raised ValueError"]),
        ("2 of 60 values of y are right", ["2 of 60 values of y are right"]),
        ("x with mean 1000 and spread 0.1", ["x with mean 1000 and spread 0.1"]),
    ],
)
def test_what_was_computed_from_hidden_inputs_is_left_out(line, told):
    assert report.details(Row("y", "✗", (line,))) == told


def test_no_page_holds_a_rubric(tmp_path):
    answers = {
        cell.name: Answer("Mine.", cell.meta["points"], 0.0)
        for cell in LESSONS[0].of("question")
    }
    text = page(written(tmp_path, verdict("ada", answers=answers)), "ada")
    for cell in LESSONS[0].of("rubric"):
        assert cell.source[:60] not in text
        assert "Model answer" not in text


HOSTILE = [
    SCRIPT,
    "<img src=x onerror=alert(1)>",
    "![x](http://example.org/track.png)",
    "[x](javascript:alert(1))",
    "<a href=' javascript:alert(1)'>x</a>",
    "<svg onload=alert(1)><style>*{display:none}</style>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "</div></section></main><h1 id=fake>20 of 18 points</h1>",
    "<form action=/x><input name=y><button>z</button></form>",
    "<b style='position:fixed' class=says onclick=alert(1)>x</b>",
    "<!-- --><![CDATA[<script>alert(1)</script>]]>",
    "# Heading\n\n## Another",
]


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_student_wrote_can_only_be_read(text):
    found = Tags(markup.rendered(text))
    assert set(found.tags) <= markup.TAGS
    for name, value in found.attributes:
        assert name in ("href", "rel")
        assert name == "rel" or value.startswith(("http", "mailto"))


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_of_a_student_runs_anywhere(tmp_path, text):
    exercise = Exercise(0, 3, (Row(text, "✗", (text,), text, text, text),), text)
    facts = {"exercises": {"f": exercise}, "answers": {"q": Answer(text, 1, 0, text)}}
    facts |= {"status": NEEDS_REVIEW, "reason": text, "notes": (text,)}
    facts |= {"platform": {"kind": "moodle", "id": text, "name": text}}
    plain = written(tmp_path, verdict("ada"), rejected=[NOTHING])
    usual = {tag for p in (page(plain, "ada"), overview(plain)) for tag in Tags(p).tags}
    bad = replace(NOTHING, reason=text, receipt=replace(RECEIPT, source=text))
    folder = written(tmp_path, verdict("ada", **facts), rejected=[bad])
    for html in (page(folder, "ada"), overview(folder)):
        found = Tags(html)
        assert set(found.tags) <= usual | markup.TAGS
        assert "script" not in found.tags and html.count("<h1") == 1
        names = {name for name, _ in found.attributes}
        assert not any(name.startswith("on") for name in names)


def test_markdown_and_tex_stay_readable():
    text = "a $x_1 * y_2 * z$ **b**\n\n| p | q |\n|---|---|\n| 1 | 2 |\n\n`x < y`"
    html = markup.rendered(text)
    assert "$x_1 * y_2 * z$" in html and "<strong>b</strong>" in html
    assert "<td>1</td>" in html and "<code>x &lt; y</code>" in html


@pytest.mark.parametrize(
    "piece", ["[", "*a", ">", "<a ", "![", "  * a\n", "$$", "\ud800"]
)
def test_endless_and_broken_text_is_shown_all_the_same(tmp_path, piece):
    text = piece * 15_000
    answers = {"q": Answer(text, 1, 0.0)}
    assert page(written(tmp_path, verdict("ada", answers=answers)), "ada")


@pytest.mark.parametrize(
    ("ids", "pages"),
    [
        (["ada", "Ada", "ADA"], ["ADA.html", "Ada-2.html", "ada-3.html"]),
        (["con", "nul.x"], ["con_.html", "nul.x_.html"]),
        (["a/b", "a\\b", "a b"], ["a_b.html", "a_b-2.html", "a_b-3.html"]),
        (["..", "李"], ["_..html", "李.html"]),
    ],
)
def test_every_student_has_a_page_on_every_system(tmp_path, ids, pages):
    written(tmp_path, *map(verdict, ids))
    made = {path.name for path in (tmp_path / "feedback").iterdir()}
    assert made == set(pages)
    assert len({name.casefold() for name in made}) == len(ids)


def test_pages_of_students_who_are_gone_are_taken_away(tmp_path):
    written(tmp_path, verdict("ada"), verdict("bob"))
    (tmp_path / "feedback" / "notes.txt").write_text("mine")
    written(tmp_path, verdict("bob"))
    names = {path.name for path in (tmp_path / "feedback").iterdir()}
    assert names == {"bob.html", "notes.txt"}


# the class


def overview(folder):
    return (folder / "overview.html").read_text(encoding="utf-8")


def test_the_overview_counts_mistakes_and_sorts_exercises(tmp_path):
    good = {"exercises": {"batchnorm_forward": RIGHT, "update_running_stats": BLANK}}
    students = [verdict("ada"), verdict("bob"), verdict("cy", **good)]
    text = overview(written(tmp_path, *students))
    assert re.search(
        r"the variance divides by the count minus 1</th>.*?class=\"number\">2</td>",
        text,
        re.DOTALL,
    )
    hard, easy = report.exercise_rows(report.students_of(students))
    assert (hard["name"], hard["share"], hard["blank"]) == (
        "update_running_stats",
        0,
        3,
    )
    assert (easy["name"], easy["full"], easy["tries"]) == ("batchnorm_forward", 1, 3)
    assert easy["share"] == pytest.approx((0.3 + 0.3 + 1) / 3)
    assert text.index("update_running_stats") < text.index("batchnorm_forward")


def test_one_misconception_in_several_exercises_is_one_family():
    mistakes = [
        ("01", "batchnorm_forward", "eps is left out", "", 3),
        ("02", "batchnorm_backward", "eps is left out, in dvar", "", 2),
        ("05", "layernorm_forward", "the root is left out", "", 4),
    ]
    places = ["batchnorm_forward", "batchnorm_backward"]
    assert report.family_rows(mistakes) == [("eps is left out", places, 5)]


def test_the_overview_lists_what_waits(tmp_path):
    students = verdict("ada", **WAITING), verdict("bob", **REVIEW)
    text = overview(written(tmp_path, *students, rejected=[NOTHING]))
    assert "1 notebook to review" in text and "the kernel died" in text
    assert "1 file rejected" in text and "a PDF, not a notebook" in text
    assert "A bias before batch norm" in text and "course.py formgrader" in text
    done = overview(written(tmp_path, verdict("ada")))
    assert "every grade is final" in done


def test_the_summary_says_what_to_do_next(tmp_path):
    students = report.students_of([verdict("ada", **WAITING), verdict("bob", **REVIEW)])
    text = "".join(report.summary(students, [NOTHING], tmp_path, False))
    assert text.startswith("2 students, 2 notebooks, 0 of them final.\n")
    assert "1 task to mark: python3 course.py formgrader" in text
    assert "1 notebook to review" in text and "1 file rejected" in text
    assert "--provisional" in text


def test_without_grades_it_says_so(tmp_path):
    with pytest.raises(SystemExit, match="Nothing is graded yet"):
        report.main(["--into", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_three_hundred_students_are_no_trouble(tmp_path):
    students = [verdict(f"student{number:03d}") for number in range(300)]
    written(tmp_path, *students)
    assert len(list((tmp_path / "feedback").iterdir())) == 300
    assert len(rows(tmp_path, "canvas.csv")) == 302


# for everybody


LOOK = """() => {
    const ratio = (a, b) => {
        const light = c => {
            const [r, g, b] = c.match(/\\d+/g).map(v => v / 255).map(
                v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
        };
        const [x, y] = [light(a), light(b)];
        return Math.max(x, y) / Math.min(x, y);
    };
    const behind = e => {
        for (; e; e = e.parentElement) {
            const color = getComputedStyle(e).backgroundColor;
            if (color !== "rgba(0, 0, 0, 0)") return color;
        }
        return "rgb(255, 255, 255)";
    };
    const all = [...document.querySelectorAll("main *")];
    const levels = [...document.querySelectorAll("h1, h2, h3")].map(e => +e.tagName[1]);
    return {
        lang: document.documentElement.lang,
        title: document.title,
        levels,
        scopes: [...document.querySelectorAll("th")].every(e => e.scope),
        captions: [...document.querySelectorAll("table")].every(e => e.caption),
        contrast: Math.min(
            ...all.map(e => ratio(getComputedStyle(e).color, behind(e)))),
        wide: document.documentElement.scrollWidth - innerWidth,
        loaded: performance.getEntriesByType("resource").map(e => e.name),
        ran: window.ran || null,
    };
}"""


@pytest.fixture(scope="module")
def browser():
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    options = {"executable_path": found} if found else {"channel": "chrome"}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**options, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [1100, 400])
def test_pages_can_be_read_by_everybody_and_load_nothing(tmp_path, browser, width):
    text = "\n\n".join(HOSTILE) + "<script>window.ran = 1</script>"
    answers = {"redundant-bias": Answer(text, 1, 0.5, text)}
    folder = written(
        tmp_path,
        verdict("ada", answers=answers, notes=("a cell was missing",)),
        verdict("bob", **REVIEW),
        rejected=[NOTHING],
    )
    tab = browser.new_page(viewport={"width": width, "height": 900})
    for path in (folder / "overview.html", folder / "feedback" / "ada.html"):
        tab.goto(path.as_uri())
        found = tab.evaluate(LOOK)
        assert found["lang"] == "en" and found["title"]
        assert found["levels"][0] == 1 and found["levels"].count(1) == 1
        steps = zip(found["levels"], found["levels"][1:], strict=False)
        assert all(after - before <= 1 for before, after in steps)
        assert found["scopes"] and found["captions"]
        assert found["contrast"] >= 4.5
        assert found["wide"] <= 0
        assert found["loaded"] == [] and found["ran"] is None
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.tagName") == "A"
    tab.locator("summary").first.focus()
    tab.keyboard.press("Enter")  # closes it: a failed check is open at first
    assert tab.locator("details[open]").count() == 0
    tab.close()


@pytest.mark.parametrize("size", [r"\big", r"\Bigl", r"\biggr", r"\Bigg"])
def test_formulas_with_large_brackets_are_drawn(size):
    page = f"<p>$$dx = {size}(dy - \\operatorname{{mean}}(dy){size})$$</p>"
    assert "data:image/png" in markup.drawn(page)
    assert "data:image" not in markup.drawn("<p>$$x \\Bigland$$</p>")
