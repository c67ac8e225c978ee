"""Right notebooks with the mess of real students, most of them written blind.

Whoever wrote them had read the lessons, and neither the rules by which the grader
rebuilds a submission nor its tests; `LATER` names those that were written afterward.
What students typed into code stands in blind.txt, as they typed it: a line
`=== LESSON NAME` begins a notebook, a line `--- PLACE CELL` a cell. What they and their
editors did to cells and files is done here. `CASES` holds all names, with the lessons.
"""

import copy
import json
import re
from pathlib import Path

from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from grading import master
from tools.lesson import BLANK_ANSWER

from . import students

LATER = ("cells_split_by_jupyterlab", "blank_copies_of_answers", "photo_in_the_text")
NAMES = {name[:2]: name for name in master.lessons()}
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABh6FO1AAA"
    "AABJRU5ErkJggg=="
)


class Book(students.Book):
    """A solved notebook, and its cells by what they answer."""

    def __init__(self, number):
        super().__init__(NAMES[number])
        self.questions, self.exercises = self.course.questions, self.course.exercises

    def at(self, name):
        """Place of an answer, of the set-up, or of a cell with that id."""
        tasks = {**self.exercises, **self.questions}
        name = tasks[name].cell if name in tasks else name
        name = self.setup().id if name == "setup" else name
        return next(i for i, cell in enumerate(self.nb.cells) if cell.id == name)

    def __getitem__(self, name):
        return self.nb.cells[self.at(name)]

    def check(self, name):
        """Place of an exercise's check."""
        return self.at(self.exercises[name].graded)

    def put(self, place, source, make=new_code_cell):
        self.nb.cells.insert(place, make(source))

    def twin(self, name, **changed):
        """A copy of an answer's cell, with all of its metadata, below it."""
        cell = copy.deepcopy(self[name])
        cell.update(changed)
        self.nb.cells.insert(self.at(name) + 1, cell)

    def of(self, kind):
        return [c for c in self.nb.cells if self.course.kinds.get(c.id) == kind]

    def drop(self, cells):
        ids = {cell.id for cell in cells}
        self.nb.cells = [cell for cell in self.nb.cells if cell.id not in ids]


# what students typed


def typed():
    """Of each notebook in blind.txt: (name, (lesson's number, cells))."""
    text = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
    for block in re.split(r"^=== ", text, flags=re.MULTILINE)[1:]:
        head, *cells = re.split(r"^--- ", block, flags=re.MULTILINE)
        number, name = head.split(":")[0].split()
        parts = [cell.rstrip("\n").split("\n", 1) for cell in cells]
        yield name, (number, [(*where.split(), source) for where, source in parts])


def type_in(book, cells):
    last, below = "", 0
    for place, name, source in cells:
        if place == "in":
            book[name].source = source
        elif place == "begin":
            book[name].source = f"{source}\n\n\n{book[name].source}"
        elif place == "end":
            book[name].source += f"\n\n\n{source}"
        elif place == "above":
            book.put(book.at(name), source)
        else:  # below, and below what was put there before
            last, below = name, below + 1 if name == last else 1
            book.put(book.at(name) + below, source)


# what they did to cells

EDITS = {}


def mess(edit):
    """Register what was done to a notebook; an edit may return the file itself."""
    EDITS[edit.__name__] = edit
    return edit


@mess
def answers_at_the_end(book):
    names = "merge_statistics", "batchnorm_forward"
    book.nb.cells += [book.nb.cells.pop(book.at(name)) for name in names]


@mess
def answers_in_new_cells(book):
    for name in book.exercises:
        book.below(name, book[name].source)
        given = students.cell_of(book.course.student, book[name].id)
        book[name].source = given.source


@mess
def answers_in_new_cells_and_the_given_ones_deleted(book):
    for name in ("update_running_stats", "merge_statistics"):
        book.below(name, book[name].source)
        book.drop([book[name]])


@mess
def duplicated_cells(book):
    for name in book.exercises:
        book.twin(name)  # Colab's "copy cell": the same id
        check = book.check(name)
        book.nb.cells.insert(check, copy.deepcopy(book.nb.cells[check]))


@mess
def answers_and_checks_merged(book):
    for name in ("batchnorm_forward", "batchnorm_inference"):
        check = book.nb.cells.pop(book.check(name))
        book[name].source += "\n\n\n" + check.source


@mess
def all_answers_in_one_cell(book):
    first, *others = book.exercises
    for name in others:
        book[first].source += "\n\n\n" + book[name].source
        book[name].source = "# see Exercise 1.1, I wrote all of them there"


@mess
def demonstrations_deleted(book):
    book.drop(book.of("code"))


@mess
def demonstrations_changed_and_broken(book):
    for cell in book.of("code")[::3]:
        cell.source = cell.source.replace("128", "64").replace("seed=0", "seed=11")
    for cell in book.of("code")[1::5]:
        cell.source = "for i in range(10\n    print(i"


@mess
def stubs_left_below_the_answers(book):
    for name in book.exercises:
        book[name].source += "\n    # your code here\n    raise NotImplementedError"


@mess
def setup_cell_deleted(book):
    book.drop([book.setup()])


@mess
def reordered_answers_without_docstrings(book):
    places = [book.at(name) for name in book.exercises]
    cells = [book.nb.cells[place] for place in places]
    for cell in cells:
        cell.source = re.sub(r'\n    """.*?"""', "", cell.source, flags=re.DOTALL)
    for place, cell in zip(places, reversed(cells), strict=True):
        book.nb.cells[place] = cell


@mess
def cells_split_by_jupyterlab(book):
    """Both halves keep the metadata, nbgrader's name with it; one gets a new id."""
    for name in ("batchnorm_forward", "redundant-bias"):
        first, second = book[name].source.split(" ", 1)
        if name in book.exercises:
            first, second = book[name].source.split("\n\n\n", 1)
        book.twin(name, id=f"half-{name}", source=second)
        book[name].source = first


@mess
def blank_copies_of_answers(book):
    for name in [*book.questions, *book.exercises]:
        book.twin(name, id=f"twin-{name}", source="\n")


# where they wrote what is no code


@mess
def chinese_answers_in_several_cells(book):
    place = book.at("redundant-bias") + 1
    book.put(place, "第二部分:训练时统计量随批次变化。", new_markdown_cell)


@mess
def only_answers_and_checks_kept(book):
    kept = [
        cell.id for kind in ("setup", "exercise", "check") for cell in book.of(kind)
    ]
    book.drop([cell for cell in book.nb.cells if cell.id not in kept])
    for name in book.questions:
        text = f"**{name}** The statistics belong to the batch."
        book.nb.cells.append(new_markdown_cell(text))


@mess
def written_answers_collected_at_the_end(book):
    for name in book.questions:
        book[name].source = BLANK_ANSWER
    book["redundant-bias"].source = "see at the end"
    book.nb.cells.append(new_markdown_cell("## My answers\n1.1 a root\n\n1.3 a floor"))


@mess
def written_answers_beside_their_cells(book):
    for name in book.questions:
        text, book[name].source = book[name].source, BLANK_ANSWER
        book.put(book.at(name) + 1, text, new_markdown_cell)


@mess
def answers_typed_below_the_questions(book):
    """Colab and VS Code let a student edit the question's cell."""
    for name in book.questions:
        question = book.nb.cells[book.at(name) - 1]
        question.source += "\n\n**Answer:** the batch decides."
        book[name].source = BLANK_ANSWER


@mess
def answers_merged_with_the_questions(book):
    for name in book.questions:
        text = book.nb.cells.pop(book.at(name)).source
        question = next(c for c in book.of("question") if c.id == f"question-{name}")
        question.source += "\n\n" + text


@mess
def written_answers_of_two_cells(book):
    for name in book.questions:
        book.put(book.at(name) + 1, "And second: the rest of it.", new_markdown_cell)


@mess
def written_answers_as_raw_cells(book):
    for name in book.questions:
        book[name].cell_type = "raw"


@mess
def prompts_left_above_the_answers(book):
    for name in book.questions:
        rest = "- first\n- second\n\n$$\\sigma^2$$\n\n| a | b |\n|---|---|\n| 1 | 2 |"
        book[name].source = f"{BLANK_ANSWER}\n\n{rest}"


@mess
def an_answer_cell_turned_to_code(book):
    cell = book["redundant-bias"]
    cell |= new_code_cell(f'"""{cell.source}"""', id=cell.id, metadata=cell.metadata)


@mess
def pictures_attached_to_answers(book):
    for name in book.questions:
        book[name].source = "See my sheet:\n\n![sheet](attachment:sheet.png)"
        book[name]["attachments"] = {"sheet.png": {"image/png": PIXEL}}


@mess
def photo_in_the_text(book):
    """Colab writes the bytes of a picture into the text of the cell."""
    photo = f"data:image/jpeg;base64,{PIXEL * 20_000}"
    book["gamma-and-beta"].source = f"My derivation:\n\n![IMG_2041.jpeg]({photo})"
    book.put(3, f'<img src="{photo}" width="400"/>', new_markdown_cell)


# what editors did to files


def remade(book, **metadata):
    """All cells with metadata of an editor's own."""
    for cell in book.nb.cells:
        cell.metadata = metadata


@mess
def a_failing_cell_after_the_answer(book):
    error = {"ename": "SyntaxError", "evalue": "invalid syntax"}
    cell = book.nb.cells[book.at("setup") + 1]
    cell.outputs = [new_output("error", **error, traceback=["\x1b[31mSyntaxError"])]


@mess
def colab_file(book):
    book.nb.metadata["colab"] = {"provenance": [], "toc_visible": True}
    for number, cell in enumerate(book.nb.cells):
        cell.metadata["id"] = f"zT{number:010}"


@mess
def kaggle_file(book):
    book.nb.metadata["kaggle"] = {"accelerator": "gpu", "isInternetEnabled": True}
    for cell in book.nb.cells:
        cell.metadata |= {"_uuid": "8f2839", "trusted": True}


@mess
def marimo_file(book):
    remade(book, marimo={"name": "_", "config": {}})
    for number, cell in enumerate(book.nb.cells):
        cell.id = f"Hb{number}"
    book.nb.metadata = {"marimo": {"marimo_version": "0.9.0"}}


@mess
def vs_code_file_with_new_ids(book):
    remade(book, vscode={"languageId": "python"})
    for number, cell in enumerate(book.nb.cells):
        cell.id = f"{number:08x}"
    book.nb.metadata = {"language_info": {"name": "python", "version": "3.12.1"}}


@mess
def windows_newlines_and_bom(book):
    for cell in book.nb.cells:
        cell.source = cell.source.replace("\n", "\r\n")
    text = json.dumps(book.nb, indent=1).replace("\n", "\r\n")
    return b"\xef\xbb\xbf" + text.encode()


@mess
def older_format_without_ids(book):
    book.nb.nbformat_minor = 2
    for cell in book.nb.cells:
        del cell["id"]
        cell.source = cell.source.splitlines(keepends=True)


@mess
def pictures_widgets_and_long_outputs(book):
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "a1"}}
    for cell in (cell for cell in book.nb.cells if cell.cell_type == "code"):
        cell.execution_count = 7
        cell.outputs = [
            new_output("stream", text="0.123 " * 2000),
            new_output("display_data", {"image/png": PIXEL, "text/plain": "<Figure>"}),
            new_output("display_data", view),
        ]
    state = {"a1": {"model_name": "FloatSliderModel", "state": {}}}
    widgets = {"application/vnd.jupyter.widget-state+json": {"state": state}}
    book.nb.metadata["widgets"] = widgets


# all of them

TYPED = dict(typed())
OTHERS = {"reordered_answers_without_docstrings": "02"}  # edits of other lessons
CASES = {
    name: NAMES[TYPED[name][0] if name in TYPED else OTHERS.get(name, "01")]
    for name in [*TYPED, *EDITS]
}


def handed_in(name):
    """The bytes of a notebook."""
    book = Book(CASES[name][:2])
    type_in(book, TYPED[name][1] if name in TYPED else ())
    edited = EDITS[name](book) if name in EDITS else None
    return edited or json.dumps(book.nb, indent=1).encode()
