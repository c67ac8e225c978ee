"""The builder: rules with their lines, both views, executed and incremental builds."""

import base64
import json
import re
import shutil
from pathlib import Path, PurePosixPath

import nbformat
import pytest

from tools import build as builder
from tools.lesson import LessonError, canonical, parse, solved_view, student_view
from tools.rules import problems

FIXTURES = Path(__file__).parent / "fixtures" / "build"
SOUND = (FIXTURES / "01_sound.md").read_text(encoding="utf-8")
PATH = PurePosixPath("lessons/01_sound.md")


def wrong_with(text):
    return problems(parse(text, PATH))


def changed(old, new, text=SOUND):
    assert old in text, f"{old!r} is not in the fixture"
    return text.replace(old, new, 1)


def line_of(needle, text):
    return text[: text.index(needle)].count("\n") + 1


def cell(nb, name):
    return {cell.id: cell for cell in nb.cells}[name]


# one rule each: what is changed in the sound lesson, then where it hurts and why
BROKEN = {
    "unclosed_solution": (
        "    return factor_of_two * number\n    ### END SOLUTION",
        "    return factor_of_two * number",
        "    ### BEGIN",
        "solution block is not closed",
    ),
    "nested_solution": (
        "    factor_of_two = 2\n",
        "    factor_of_two = 2\n    ### BEGIN SOLUTION\n",
        "    ### BEGIN SOLUTION\n    return",
        "solution block inside a solution block",
    ),
    "stray_end": (
        '"""Return twice the number."""',
        "### END SOLUTION",
        "### END SOLUTION",
        "without ### BEGIN SOLUTION",
    ),
    "no_solution": (
        "    ### BEGIN SOLUTION\n    factor_of_two = 2\n"
        "    return factor_of_two * number\n    ### END SOLUTION",
        "    return 2",
        "def double_it(number)",
        "exercise 'double-it' has no solution block",
    ),
    "solution_outside_an_exercise": (
        'print(f"half',
        '### BEGIN SOLUTION\nprint("a secret")\n### END SOLUTION\nprint(f"half',
        "### BEGIN SOLUTION\nprint",
        "solution outside an exercise",
    ),
    "duplicate_exercise": (
        ":name: a-counter",
        ":name: double-it",
        "class Counter:",
        "the name 'double-it' is taken by line",
    ),
    "duplicate_question": (
        '"name": "why-two"',
        '"name": "double-it"',
        "### Question 1.1",
        "the name 'double-it' is taken by line",
    ),
    "name_with_capitals": (
        ":name: double-it",
        ":name: Double_It",
        "def double_it(number)",
        "needs a name of lower-case-words",
    ),
    "no_name": (":name: a-counter\n", "", "class Counter:", "needs a name"),
    "no_points": (":points: 2\n", "", "def double_it(number)", "needs points"),
    "points_as_text": (":points: 2", ':points: "2"', "def double_it(n", "needs points"),
    "no_minutes": (":minutes: 5\n", "", "class Counter:", "needs minutes"),
    "no_question_points": (', "points": 3', "", "### Question 1.1", "needs points"),
    "no_check": (
        "```{code-cell} ipython3\n:tags: [check]\n\ncheck.a_counter(Counter)\n```\n",
        "",
        "class Counter:",
        "exercise 'a-counter' needs a check cell right below it",
    ),
    "check_without_an_exercise": (
        ":tags: [hidden]",
        ":tags: [check]",
        '{"sorted"',
        "check without its exercise cell right above it",
    ),
    "check_of_another_exercise": (
        "check.a_counter(Counter)\n",
        "check.double_it(Counter)\n",
        "check.double_it(Counter)",
        "the last line must be `check.a_counter(Counter)`",
    ),
    "check_not_last": (
        "check.a_counter(Counter)\n",
        "check.a_counter(Counter)\nprint()\n",
        "print()\n",
        "the last line must be `check.a_counter(Counter)`",
    ),
    "other_name_defined": (
        "def double_it(number)",
        "def twice(number)",
        "def twice(number)",
        "exercise must define only double_it, not twice",
    ),
    "two_names_defined": (
        "class Counter:",
        "start = 0\n\nclass Counter:",
        "start = 0",
        "exercise must define only Counter, not start = 0, Counter",
    ),
    "no_rubric": (
        '+++ {"tags": ["rubric"]}',
        "+++",
        "### Question 1.1",
        "question 'why-two' needs a rubric cell right below it",
    ),
    "rubric_without_a_question": (
        '+++ {"tags": ["question"], "name": "why-two", "points": 3, "minutes": 5}',
        "+++",
        "One point for naming",
        "rubric without its question cell right above it",
    ),
    "no_task": (
        "```{code-cell} ipython3\n:name: a-counter",
        "```{code-cell} ipython3\n0\n```\n\n```{code-cell} ipython3\n:name: a-counter",
        "class Counter:",
        "exercise 'a-counter' needs a task cell right above it",
    ),
    "text_above_the_heading": (
        "### Exercise 1.2",
        "You doubled.\n\n### Exercise 1.2",
        "You doubled.\n\n### Exercise 1.2",
        "this cell must start with `### Exercise 1.2 · ...`",
    ),
    "exercise_numbered_wrong": (
        "### Exercise 1.2",
        "### Exercise 1.3",
        "### Exercise 1.3",
        "this cell must start with `### Exercise 1.2 · ...`",
    ),
    "question_numbered_wrong": (
        "### Question 1.1",
        "### Question 2.1",
        "### Question 2.1",
        "this cell must start with `### Question 1.1 · ...`",
    ),
    "two_hints": (
        "<details><summary>Hint 2</summary>Where?</details>\n",
        "",
        "### Exercise 1.2",
        "exercise needs three hints in <details>, not 2",
    ),
    "hint_with_solution": (
        "return ... * number",
        "return  factor_of_two*number",
        "<details><summary>Hint 3 · shape",
        "hint gives the solution away: `return factor_of_two * number`",
    ),
    "two_setups": (
        ":tags: [hidden]",
        ":tags: [setup]",
        '{"sorted"',
        "a lesson has one set-up cell, not 2",
    ),
    "no_setup": (
        ":tags: [setup]",
        ":tags: [hidden]",
        "---\ncourse",
        "a lesson has one set-up cell, not 0",
    ),
    "late_import": (
        'print(f"half',
        'from math import pi\nprint(f"half',
        "from math import pi",
        "import outside the set-up cell",
    ),
    "late_import_of_a_part": (
        'print(f"half',
        'import math, torch\nprint(f"half',
        "import math, torch",
        "import outside the set-up cell",
    ),
    "import_in_a_stub": (
        "    def next(self):\n",
        "    def next(self):\n        import operator\n",
        "        import operator\n",
        "import outside the set-up cell",
    ),
    "last_semicolon": (
        "        return 0.0",
        "        return 0.0;  # no",
        "        return 0.0;",
        "semicolon ends the cell",
    ),
    "clear_output": ("print(f", "clear_output()\nprint(f", "clear_output()", "nbval"),
    "tqdm_auto": (
        "import math\n",
        "import math\nfrom tqdm.auto import tqdm\n",
        "from tqdm.auto",
        "write `from tqdm import tqdm`",
    ),
    "nbval_comment": (
        "print(f",
        "# NBVAL_IGNORE_OUTPUT\nprint(f",
        "# NBVAL_IGNORE",
        "use the tag nbval-ignore-output",
    ),
    "long_line": (
        "import math\n",
        f"import math\n# {'x' * 87}\n",
        "# xxx",
        "code line of 89 characters, at most 88",
    ),
    "long_cell": (
        "import math\n",
        "import math\n" + 10 * "# more\n",
        "import math",
        "code cell of 28 lines, at most 25",
    ),
    "long_exercise": (
        "    factor_of_two = 2\n",
        "    factor_of_two = 2\n" + 40 * "    # more\n",
        "def double_it(number)",
        "code cell of 46 lines, at most 40",
    ),
    "magic": ("print(f", "%time\nprint(f", "%time", "not plain Python: invalid syntax"),
    "empty_cell": (
        "## In short",
        "```{code-cell} ipython3\n\n```\n\n## In short",
        "\n```\n\n## In short",
        "empty code cell",
    ),
    "unknown_tag": (
        "[exercise]",
        "[exercises]",
        "def double_it(number)",
        "unknown tag 'exercises'",
    ),
    "code_as_question": (
        "[hidden]",
        "[question]",
        '{"sorted"',
        "a code cell cannot be a question",
    ),
    "unknown_placeholder": (
        "{{points}}",
        "{{ points }}",
        "A lesson that keeps",
        "unknown placeholder {{ points }}",
    ),
    "no_blank_line_above_a_cell": (
        "In `self`.</details>\n",
        "In `self`.</details>",
        "```{code-cell} ipython3\n:name: a-counter",
        "no cell starts here: put a blank line above",
    ),
    "list_by_chance": (
        "A lesson that keeps",
        "The difference should be\n1. It is not.\n\nA lesson that keeps",
        "1. It is not",
        "`1.` begins a list",
    ),
    "list_in_a_formula": (
        "A lesson that keeps",
        "$$a\n- b$$\n\nA lesson that keeps",
        "- b$$",
        "`-` begins a list",
    ),
    "yours_of_another_exercise": (
        'print(f"half',
        'check.yours("a_counter", double_it, abs)\nprint(f"half',
        "check.yours(",
        "write `check.yours(name of an exercise above, what it defines, ...)`",
    ),
    "nothing_built": (
        "  builds: a function that doubles and a class that counts\n",
        "",
        "---\ncourse",
        "front matter needs `course: builds:`",
    ),
    "other_title": (
        "# 01 · Sound",
        "# 02 · Sound",
        "# 02 · Sound",
        "the lesson must start with `# 01 · ...`",
    ),
}


def test_a_sound_lesson_breaks_no_rule():
    assert wrong_with(SOUND) == []


@pytest.mark.parametrize("cell", ['print(f"half', "class Counter:"])
def test_pytorch_may_be_imported_in_the_cell_that_needs_it(cell):
    late = "import torch\nfrom torchvision import models\nfrom torch.nn import ReLU\n"
    assert wrong_with(changed(cell, late + cell)) == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_reported_with_its_line(name):
    old, new, place, why = BROKEN[name]
    text = changed(old, new)
    start = f"{PATH}:{line_of(place, text)}: "
    assert [w for w in wrong_with(text) if w.startswith(start) and why in w]


def test_all_mistakes_are_reported_at_once_in_order_of_lines():
    text = changed("import math\n", f"import math\n# {'x' * 99}\n")
    text = changed(":points: 2\n", "", text)
    text = changed('+++ {"tags": ["rubric"]}', "+++", text)
    lines = [int(re.search(r":(\d+):", what)[1]) for what in wrong_with(text)]
    assert len(lines) == 3 and lines == sorted(lines)


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        (":tags: [exercise]", ":tags: exercise", ":tags: exercise"),
        (":tags: [exercise]", ":tags: [x", "```{code-cell} ipython3\n:name: double"),
        ('"name": "why-two"', '"name": 2', '+++ {"tags": ["question"]'),
        ('"name": "why-two"', "name", '+++ {"tags": ["question"]'),
        ("  name: python3", "  name: [", "---\ncourse"),
    ],
)
def test_what_jupytext_cannot_read_is_reported_with_its_line(old, new, place):
    text = changed(old, new)
    with pytest.raises(LessonError) as error:
        parse(text, PATH)
    assert str(error.value).startswith(f"{PATH}:{line_of(place, text)}: ")


def test_an_empty_lesson_is_reported():
    with pytest.raises(LessonError, match="01_sound.md:1: the lesson is empty"):
        parse("---\ncourse: none\n---\n", PATH)


# the text and its two views


def test_the_lesson_text_survives_reading_and_writing():
    assert canonical(SOUND, PATH) == SOUND


def test_what_editors_leave_in_a_lesson_is_taken_out():
    left = "jupytext:\n  text_representation:\n    jupytext_version: 1.2.3\ncourse:"
    text = changed("course:", left).replace("Python 3", "Python 3 (ipykernel)")
    assert canonical(text, PATH) == SOUND


def test_the_student_sees_a_stub_that_keeps_its_indentation():
    nb = student_view(parse(SOUND, PATH))
    assert cell(nb, "ex-double-it").source.endswith(
        '"""Return twice the number."""\n'
        "    # your code here\n"
        "    raise NotImplementedError"
    )
    assert cell(nb, "ex-a-counter").source.endswith(
        "    def next(self):\n"
        "        # your code here\n"
        "        raise NotImplementedError"
    )
    assert cell(nb, "answer-why-two").source == "*Your answer here.*"
    text = builder.dumps(nb)
    assert not any(word in text for word in ("factor_of_two", "SOLUTION", "induction"))


def test_the_solved_view_keeps_solutions_markers_and_rubrics():
    nb = solved_view(parse(SOUND, PATH))
    assert cell(nb, "ex-double-it").source.count("SOLUTION") == 2
    assert cell(nb, "answer-why-two").source.startswith("One point for naming")


def test_reading_time_follows_the_rule():
    """Words / 200, formulas / 10, visible lines / 12, figures / 2, in steps of 5."""
    assert parse(SOUND, PATH).reading == 5  # the least
    for text, minutes in (("word " * 3000, 15), ("$x + y$ " * 100, 10)):
        longer = changed("You doubled.", f"You doubled.\n\n{text}")
        assert parse(longer, PATH).reading == minutes


def test_headings_and_title_say_minutes_and_points():
    text = "\n".join(cell.source for cell in student_view(parse(SOUND, PATH)).cells)
    assert "### Exercise 1.1 · Double a number · 10 min · 2 points\n" in text
    assert "### Exercise 1.2 · Count · 5 min · 1 point\n" in text
    assert "### Question 1.1 · Why two? · 5 min · 3 points\n" in text
    assert "**Time** 25 minutes · **6 points**" in text


def test_ids_are_readable_and_the_same_in_both_views():
    lesson = parse(SOUND, PATH)
    ids = [cell.id for cell in student_view(lesson).cells]
    assert ids == [cell.id for cell in solved_view(lesson).cells]
    assert ids[:4] == ["sound-1", "setup", "what-gamma-does-1", "what-gamma-does-2"]
    assert ids[-3:] == ["answer-why-two", "in-short-1", "in-short-2"]


def test_a_new_section_renames_no_other_cell():
    text = changed("## 1 What γ does", "## 1 Before\n\n+++\n\n## 2 What γ does")
    before, after = (
        {cell.id for cell in student_view(parse(t, PATH)).cells} for t in (SOUND, text)
    )
    assert after - before == {"before-1"} and before < after


def test_metadata_say_what_nbgrader_and_jupyterlab_need():
    nb = student_view(parse(SOUND, PATH))

    def graded(name, **extra):
        shared = {"grade_id": name, "schema_version": 3, "task": False}
        assert cell(nb, name).metadata.nbgrader == shared | extra
        assert cell(nb, name).metadata.deletable is False

    graded("ex-double-it", grade=False, locked=False, solution=True)
    graded("check-double-it", grade=True, locked=True, solution=False, points=2)
    graded("answer-why-two", grade=True, locked=False, solution=True, points=3)
    for name in ("setup", "what-gamma-does-4", "check-double-it", "question-why-two"):
        assert cell(nb, name).metadata.editable is False
    assert cell(nb, "in-short-2").metadata.jupyter == {"source_hidden": True}
    assert set(cell(nb, "ex-a-counter").metadata) == {"deletable", "nbgrader", "tags"}
    assert cell(nb, "answer-why-two").metadata.tags == ["answer"]


def test_the_version_follows_what_the_student_reads_and_nothing_else():
    def version(text):
        course = student_view(parse(text, PATH)).metadata.course
        assert course.lesson == "01_sound"
        assert course == solved_view(parse(text, PATH)).metadata.course
        return course.version

    assert re.fullmatch("[0-9a-f]{12}", version(SOUND))
    assert version(changed("induction", "reduction")) == version(SOUND)
    assert version(changed("two = 2", "two = 1 + 1")) == version(SOUND)
    assert version(changed("Halves first.", "Halves last.")) != version(SOUND)
    assert version(changed(":points: 2", ":points: 4")) != version(SOUND)


# building


def plant(root, text=SOUND, name="01_sound"):
    (root / "lessons").mkdir(parents=True, exist_ok=True)
    (root / "lessons" / f"{name}.md").write_text(text, encoding="utf-8", newline="\n")
    return root


def every_file(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def executed(root, *names, **options):
    """Build, and return what it says about the notebooks that it executed."""
    said = []
    builder.build(root, names, say=lambda *words, **_: said.append(words), **options)
    pairs = zip(said[::2], said[1::2], strict=False)
    return {what[0]: done for what, done in pairs if done[0].startswith("executed")}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = plant(tmp_path_factory.mktemp("course") / "with a space")
    readme = "# Course\n\n<!-- lessons -->\nold\n<!-- /lessons -->\n\nEnd.\n"
    (root / "README.md").write_text(readme, encoding="utf-8", newline="\n")
    assert len(executed(root)) == 2
    return root


@pytest.fixture
def tree(built, tmp_path):
    return Path(shutil.copytree(built, tmp_path / "tree"))


def read(root, folder="notebooks"):
    return builder.loads(root / folder / "01_sound.ipynb")


def test_another_build_has_the_same_bytes(built, tree):
    assert len(executed(tree, force=True)) == 2
    assert every_file(tree) == every_file(built)


@pytest.mark.parametrize("folder", builder.VIEWS)
def test_built_notebooks_are_executed_canonical_and_valid(built, folder):
    nb = read(built, folder)
    nbformat.validate(nb)
    assert (nb.nbformat, nb.nbformat_minor) == (4, 5)
    assert builder.ran(builder.code_cells(nb))
    assert cell(nb, "what-gamma-does-2").outputs[0].text == "half of pi: 1.5708\n"
    assert set(nb.metadata) == {"course", "kernelspec", "language_info"}
    assert "version" not in nb.metadata.language_info
    text = (built / folder / "01_sound.ipynb").read_bytes().decode("utf-8")
    loaded = json.loads(text)
    canon = json.dumps(loaded, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    assert text == canon and "γ" in text


def test_checks_score_nothing_for_students_and_everything_when_solved(built):
    wanted = {"notebooks": ["0.0", "0.0"], "build/solved": ["2.0", "1.0"]}
    for folder, scores in wanted.items():
        nb = read(built, folder)
        checks = [cell(nb, name) for name in ("check-double-it", "check-a-counter")]
        assert [c.outputs[0].data["text/plain"] for c in checks] == scores


def test_exercises_and_the_lesson_table_are_collected(built):
    listed = json.loads((built / builder.EXERCISES).read_text(encoding="utf-8"))
    assert listed == {
        "a_counter": {"lesson": "01_sound", "minutes": 5, "points": 1},
        "double_it": {"lesson": "01_sound", "minutes": 10, "points": 2},
    }
    readme = (built / "README.md").read_text(encoding="utf-8")
    row = (
        "| [01 · Sound](notebooks/01_sound.ipynb) "
        "| a function that doubles and a class that counts | 25 | 6 | 2 + 1 written |\n"
    )
    total = "| **together** | | 25 | 6 | 2 + 1 written |\n"
    assert row + total in readme and "old" not in readme
    assert readme.endswith("-->\n\nEnd.\n")


def test_nothing_is_executed_or_written_twice(tree):
    before = {p: p.stat().st_mtime_ns for p in tree.rglob("*.*")}
    assert executed(tree) == {}
    assert before == {p: p.stat().st_mtime_ns for p in tree.rglob("*.*")}


def test_new_prose_is_built_without_executing_anything(tree):
    plant(tree, changed("Halves first.", "Halves before doubles."))
    assert executed(tree) == {}
    nb = read(tree)
    assert "Halves before doubles." in cell(nb, "what-gamma-does-1").source
    assert cell(nb, "what-gamma-does-2").outputs and builder.check(tree) == []


def test_a_new_solution_executes_the_solved_notebook_only(tree):
    before = (tree / "notebooks/01_sound.ipynb").read_bytes()
    plant(tree, changed("factor_of_two = 2", "factor_of_two = 1 + 1"))
    assert [*executed(tree)] == ["build/solved/01_sound.ipynb"]
    assert (tree / "notebooks/01_sound.ipynb").read_bytes() == before


def test_the_lesson_is_written_as_jupytext_writes_it(tree):
    plant(tree, SOUND.replace("\n", "\r\n").replace("Python 3", "My kernel"))
    assert executed(tree) == {}
    assert (tree / PATH).read_bytes() == SOUND.encode("utf-8")


IMPORTS = "import math\nimport os\nimport sys\nfrom pathlib import Path\n"


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("wrong = 1 / 0", "ZeroDivisionError: division by zero"),
        ("os._exit(1)", "[Kk]ernel died"),
    ],
)
def test_a_failing_cell_stops_the_build_and_keeps_the_old_notebook(tree, code, why):
    before = every_file(tree / "notebooks")
    text = changed("print(f", f"{code}\nprint(f")
    text = changed("import math\n", IMPORTS, text)
    with pytest.raises(LessonError, match=why) as error:
        executed(plant(tree, text))
    start = f"{PATH}:{line_of(code, text)}: cell what-gamma-does-2 failed\n"
    assert str(error.value).startswith(start) and "\x1b" not in str(error.value)
    assert every_file(tree / "notebooks") == before


PECULIAR = """\
print("threads", *(os.environ[f"{name}_NUM_THREADS"] for name in ("OMP", "OPENBLAS")))
print("seeds", os.environ["PYTHONHASHSEED"], os.environ.get("BN_HELPERS_CHECK_SEED"))
print("empty folder", not [*Path.cwd().glob("[!.]*")])
print("a warning", file=sys.stderr)
view = "application/vnd.jupyter.widget-view+json"
display({view: {"model_id": os.urandom(4).hex()}, "text/plain": "w"}, raw=True)
"""


def test_kernels_are_pinned_and_volatile_outputs_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("BN_HELPERS_CHECK_SEED", "7")
    text = changed("print(f", f"{PECULIAR}print(f")
    plant(tmp_path, changed("import math\n", IMPORTS, text))
    _, note = executed(tmp_path)["notebooks/01_sound.ipynb"]
    assert note.endswith("note, stderr: a warning\n")
    stream, display = cell(read(tmp_path), "what-gamma-does-2").outputs
    assert stream.text.startswith("threads 1 1\nseeds 0 None\nempty folder True\n")
    assert display.data == {"text/plain": "w"}


# which lessons


BROKEN_LESSON = changed("# 01", "# 02").replace("### Exercise 1.1", "### Exercise 7.7")


def test_lessons_are_chosen_by_number_name_or_path(tmp_path):
    plant(plant(tmp_path), name="02_other")
    paths = [tmp_path / "lessons" / f"{name}.md" for name in ("01_sound", "02_other")]
    assert builder.choose(tmp_path) == paths
    for name in ("2", "02_other", "lessons/02_other.md", "notebooks/02_other.ipynb"):
        assert builder.choose(tmp_path, [name]) == paths[1:]
    with pytest.raises(LessonError, match="no lesson is called '3'; there are: 01_so"):
        builder.choose(tmp_path, ["3"])


def test_a_broken_lesson_stops_its_own_build_only(tree):
    plant(tree, BROKEN_LESSON, "02_other")
    assert executed(tree, "01") == {}
    for names in ((), ("02",)):
        with pytest.raises(LessonError, match="lessons/02_other.md:"):
            executed(tree, *names)


def test_one_exercise_name_belongs_to_one_lesson(tree):
    text = changed("# 01", "# 02").replace("Exercise 1.", "Exercise 2.")
    plant(tree, text.replace("Question 1.", "Question 2."), "02_other")
    with pytest.raises(LessonError, match="'double-it' is in lessons/01_sound.md too"):
        executed(tree)


# freshness


def edited(tree, change):
    """Change the built notebook by hand, as an editor would, and check the tree."""
    path, nb = tree / "notebooks/01_sound.ipynb", read(tree)
    change(nb)
    path.write_text(builder.dumps(nb), encoding="utf-8", newline="\n")
    return builder.check(tree)


MINE = nbformat.v4.new_markdown_cell("mine", id="mine")
MEND = "; edit lessons/01_sound.md, then run `python3 course.py build`"


def test_a_fresh_tree_is_clean(built):
    assert builder.check(built) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda nb: nb.cells[3].update(source="1"), "cell what-gamma-does-2: source"),
        (lambda nb: nb.cells[1].metadata.pop("tags"), "cell setup: metadata differs"),
        (lambda nb: nb.cells[2].update(id="x"), "x stands where what-gamma-does-1"),
        (lambda nb: nb.cells.pop(), "nothing stands where in-short-2 belongs"),
        (lambda nb: nb.cells.append(MINE), "mine stands where nothing belongs"),
        (lambda nb: nb.cells.reverse(), "in-short-2 stands where sound-1 belongs"),
        (lambda nb: nb.metadata.course.pop("version"), "notebook metadata differs"),
    ],
)
def test_a_hand_edit_is_found_and_the_lesson_named(tree, change, what):
    [message] = edited(tree, change)
    assert message.startswith(f"notebooks/01_sound.ipynb: {what}")
    assert message.endswith(MEND)


def test_outputs_are_left_to_nbval(tree):
    assert edited(tree, lambda nb: nb.cells[3].outputs.clear()) == []


@pytest.mark.parametrize(
    ("path", "text", "what"),
    [
        ("notebooks/01_sound.ipynb", None, "cannot be read"),
        ("notebooks/01_sound.ipynb", "{", "cannot be read"),
        (PATH, SOUND + "\n", "is not as jupytext writes it"),
        ("bn_checks/exercises.json", "{}", "differs"),
        ("README.md", "<!-- lessons -->\nno\n<!-- /lessons -->\n", "differs"),
        ("notebooks/09_old.ipynb", "{}", "no lesson makes this, delete it"),
    ],
)
def test_stale_missing_and_orphan_files_are_found(tree, path, text, what):
    if text is None:
        (tree / path).unlink()
    else:
        (tree / path).write_text(text, encoding="utf-8", newline="\n")
    [message] = builder.check(tree)
    assert message.startswith(f"{path}: {what}")


def test_indentation_of_the_stored_json_matters(tree):
    path = tree / "notebooks/01_sound.ipynb"
    path.write_text(json.dumps(read(tree), indent=2), encoding="utf-8")
    [message] = builder.check(tree)
    assert message.startswith("notebooks/01_sound.ipynb: its JSON is not")


def test_check_reports_broken_rules(tree):
    plant(tree, changed(":points: 2\n", ""))
    assert "needs points" in builder.check(tree)[0]


# the command line


def test_the_command_checks_builds_and_solves(tree, capsys):
    builder.main(["01"], tree)
    assert capsys.readouterr().out.count("is up to date") == 2
    with pytest.raises(SystemExit) as clean:
        builder.main(["--check"], tree)
    assert clean.value.code == 0
    (tree / "notebooks/01_sound.ipynb").unlink()
    with pytest.raises(SystemExit) as stale:
        builder.main(["--check"], tree)
    assert stale.value.code.endswith(MEND)
    with pytest.raises(SystemExit, match="no lesson is called '4'"):
        builder.main(["4"], tree)


def test_a_solved_notebook_goes_where_it_is_asked_for(tree, tmp_path):
    builder.main(["--solved", "01", str(tmp_path / "to")], tree)
    nb = builder.loads(tmp_path / "to" / "01_sound.ipynb")
    assert "factor_of_two" in cell(nb, "ex-double-it").source
    assert not any(c.outputs for c in builder.code_cells(nb))


def test_the_cover_is_the_figure_of_its_cell(tmp_path):
    (tmp_path / "notebooks").mkdir()
    png = base64.b64encode(b"a picture").decode()
    figure = nbformat.v4.new_output("display_data", {"image/png": png})
    text = nbformat.v4.new_output("stream", text="Figure: a picture.")
    tagged = nbformat.v4.new_code_cell(
        metadata={"tags": ["cover"]}, outputs=[figure, text]
    )
    builder._save_cover(tmp_path, nbformat.v4.new_notebook(cells=[tagged]))
    assert (tmp_path / builder.COVER).read_bytes() == b"a picture"
