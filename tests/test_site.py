"""The reading edition: what its pages hold, and how a browser meets them."""

import html
import re
import shutil
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import nbformat
import numpy as np
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from playwright.sync_api import sync_playwright
from sourced.lesson_01 import unbiased

from bn_checks.banks import lesson_01
from bn_helpers import norms, plots
from tools.lesson import cut, parse
from tools.site import __main__ as site_builder
from tools.site import moving, npm, pages

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LESSONS = [path.stem for path in NOTEBOOKS]
PAGE_BYTES = 1_500_000  # a lesson with all it loads, without fonts
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


# pages from cells


def page(*cells, name="01_forward_pass"):
    nb = new_notebook(cells=[new_markdown_cell("# 01 · Title\n\nA promise."), *cells])
    return pages.lesson_page(nb, name)


def printed(text):
    return new_output("stream", name="stdout", text=text)


def figure(alt):
    data, meta = {"image/png": "iVBORw0KGgo="}, {"image/png": {"alt": alt}}
    return new_output("display_data", data=data, metadata=meta)


def test_outputs_after_a_guess_are_folded_and_others_are_not():
    shown = new_code_cell("show()", outputs=[printed("42")])
    text = page(new_markdown_cell("It holds. Guess first: how many?"), shown).text
    assert re.search(r"<details class=\"guess\"><summary>.*42.*</details>", text, re.S)
    text = page(new_markdown_cell("A prediction is guessing."), shown).text
    assert "42" in text and "details" not in text


def test_a_picture_has_its_alt_text_and_is_not_told_twice():
    alt = "two *lines* cross at 0.5, " + " ".join(["far out"] * 12)
    after = plots.printed(alt) + "\nand a number: 7\n"
    cell = new_code_cell("f()", outputs=[figure(alt), printed(after)], id="here-1")
    made = page(cell)
    assert f':alt: "{alt}"' in made.text
    assert made.text.count("cross at 0") == 2 and "Figure: " not in made.text
    assert "and a number: 7" in made.text and r"Two \*lines\*" in made.text
    assert made.files["figures/01_forward_pass/here-1.png"].startswith(b"\x89PNG")


def test_an_exercise_is_a_stub_with_a_way_to_run_it_and_no_check():
    task = new_markdown_cell(
        "### Exercise 1.1 · Do\n\n"
        "<details><summary>Hint 1</summary>\nUse $x$.\n</details>"
    )
    stub = new_code_cell("def do(): ...", metadata={"tags": ["exercise"]}, id="ex-do")
    verdict = new_output("execute_result", data={"text/html": "not attempted"})
    check = new_code_cell("check.do(do)", metadata={"tags": ["check"]})
    check.outputs = [verdict]
    answer = new_markdown_cell("*Your answer here.*", metadata={"tags": ["answer"]})
    text = page(task, stub, check, answer).text
    assert "### <!--id:exercise-do-->Exercise 1.1" in text
    assert "def do(): ..." in text and "index.md#start" in text
    assert "<summary>Hint 1</summary>\n\nUse $x$.\n\n</details>" in text
    for absent in ("check.do", "not attempted", "Your answer"):
        assert absent not in text


def test_dead_sliders_give_way_to_a_figure_that_moves_or_to_a_word():
    def drag(names):
        said = f"(sliders for {names}: run this cell, then drag)"
        output = new_output("execute_result", data={"text/plain": said})
        return page(new_code_cell("plots.drag(f)", outputs=[output])).text

    assert 'data-figure="eps"' in drag("exponent")
    unknown = drag("something new")
    assert "data-figure" not in unknown and "has sliders" in unknown
    for text in (drag("gamma and beta"), unknown):
        assert "plots.drag" not in text and "run this cell" not in text


def test_links_lead_to_pages_and_what_the_site_lacks_is_only_named():
    text = (
        "[a](../grading/README.md#where) [b](03_x.ipynb) [c](../grading/exercises.md) "
        "[d](https://example.org/) [e](#here)\n```\n[f](03_x.ipynb)\n```"
    )
    assert pages.relinked(text, "notebooks") == (
        "[a](instructors.md#where) [b](03_x.md) `grading/exercises.md` "
        "[d](https://example.org/) [e](#here)\n```\n[f](03_x.ipynb)\n```"
    )


def test_papers_and_threads_that_a_text_cites_are_links():
    text = "arXiv:1502.03167, and/or issues 4. a/b.c,\nissue 12; d/e pull request 3"
    assert pages.relinked(text, "notebooks") == (
        "[arXiv:1502.03167](https://arxiv.org/abs/1502.03167), and/or issues 4. "
        "[a/b.c,\nissue 12](https://github.com/a/b.c/issues/12); "
        "[d/e pull request 3](https://github.com/d/e/issues/3)"
    )
    linked = "[arXiv:1502.03167](https://x.org/) `arXiv:1502.03167`"
    assert pages.relinked(linked, "") == linked


@pytest.mark.parametrize(
    ("text", "numbers"),
    (
        ("a/b, issues 5 and 60, sections 7 and 8", ["5", "60"]),
        ("a/b issue 5 and pull request 6", ["5", "6"]),
        ("a/b, issue 5, mended by pull request 6, 2025.", ["5", "6"]),
        ("a/b, pull request 5 (kept) and c/d,\npull request 6", ["5", "6"]),
    ),
)
def test_each_of_several_threads_is_a_link(text, numbers):
    made = pages.relinked(text, "")
    assert re.findall(r"github.com/\w/\w/issues/(\d+)\)", made) == numbers
    assert re.sub(r"\[(.*?)\]\(.*?\)", r"\1", made, flags=re.S) == text


def test_an_address_gives_a_sitemap_and_a_picture_for_previews(tmp_path):
    (tmp_path / "a.html").write_text("<head></head>", encoding="utf-8")
    site_builder.announce(tmp_path, "https://example.org/bn/")
    assert "/bn/_images/cover.png" in (tmp_path / "a.html").read_text("utf-8")
    (place,) = ElementTree.parse(tmp_path / "sitemap.xml").iterfind("{*}url/{*}loc")
    assert place.text == "https://example.org/bn/a.html"


def test_output_may_hold_fences_and_captions_may_hold_anything():
    text = page(new_code_cell("f()", outputs=[printed("```\n# x\n````")])).text
    assert "`````{code-block} text" in text
    assert pages.escaped("a_b*c $d$ [e] <f>") == r"a\_b\*c \$d\$ \[e\] \<f\>"


@pytest.mark.site
def test_sections_of_lessons_have_addresses(tmp_path):
    from tools.site import conf  # needs Sphinx

    page = tmp_path / "05_variants.md"
    page.write_text("# 05\n\n## 8 Shrink it\n\n### 1 No\n", encoding="utf-8")
    (tmp_path / "index.md").write_text("## 1 No\n", encoding="utf-8")
    assert conf.places(tmp_path) == {
        ("05", None): "05_variants.html",
        ("05", "8"): "05_variants.html#shrink-it",
    }


# what comes from npm


def test_without_npm_a_word_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(npm.NpmError, match="sudo apt install npm"):
        npm.read("axe-core", "axe.min.js", tmp_path)


def test_another_archive_than_the_pinned_one_is_refused(tmp_path):
    version, _ = npm.PINS["axe-core"]
    other = tmp_path / f"axe-core-{version}.tgz"
    other.write_bytes(b"something else")
    with pytest.raises(npm.NpmError, match="expected FHfa"):
        npm.read("axe-core", "axe.min.js", tmp_path)
    assert not other.exists()


# the workflow that publishes


def test_the_workflow_builds_and_publishes_what_there_is(capsys):
    text = (ROOT / ".github/workflows/site.yml").read_text("utf-8")
    [job] = yaml.safe_load(text)["jobs"].values()
    told = set(re.findall(r"steps\.(\w+)\.outputs", str(job)))
    assert told <= {step.get("id") for step in job["steps"]}
    [run] = [step["run"] for step in job["steps"] if "run" in step]
    with pytest.raises(SystemExit):
        site_builder.main(["--help"])
    known = re.findall(r"^ +(--\w+)", capsys.readouterr().out, re.MULTILINE)
    assert set(re.findall(r"--\w+", run)) <= set(known) and " course.py site " in run
    [published] = [
        step["with"]["path"] for step in job["steps"] if "path" in step.get("with", {})
    ]
    assert published == "build/site"


# notebooks


@pytest.mark.parametrize("path", NOTEBOOKS, ids=LESSONS)
def test_every_figure_of_a_notebook_has_an_alt_text(path):
    nb = nbformat.read(path, as_version=4)
    outputs = [o for cell in nb.cells for o in cell.get("outputs", [])]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    alts = [o.metadata.get("image/png", {}).get("alt", "") for o in pictures]
    assert all(len(alt.split()) >= 5 for alt in alts), alts


def test_the_star_moves_among_the_samples_of_the_lesson():
    nb = nbformat.read(ROOT / f"notebooks/{moving.LESSON}.ipynb", as_version=4)
    others = moving.numbers(ROOT / "notebooks")["others"]
    [cell] = [cell for cell in nb.cells if "def draw_coupling" in cell.source]
    assert f"np.array([{', '.join(map(str, others))}, moved])" in cell.source


# the built site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    said = []
    out = tmp_path_factory.mktemp("site") / "site"
    address = "https://course.example/"
    assert site_builder.build(ROOT, out, address, say=said.append) == 0
    assert not said, "the font for formulas is missing"
    return out


@pytest.fixture(scope="module")
def texts(site):
    return {path.name: path.read_text("utf-8") for path in site.glob("*.html")}


@pytest.mark.site
def test_each_lesson_is_a_page_with_a_way_on_and_something_to_show(texts):
    assert {f"{name}.html" for name in LESSONS} < set(texts)
    for before, after in pairwise(LESSONS):
        text = texts[f"{before}.html"]
        [way_on] = re.findall(r'<a class="right-next"\s+href="([^"]+)"', text)
        assert way_on == f"{after}.html"
    for name in LESSONS:
        for meta in ("description", "og:title", "og:description"):
            heads = re.findall(rf'<meta [^>]*"{meta}"[^>]*>', texts[f"{name}.html"])
            assert any(re.search(r'content="[^"]{3,}"', head) for head in heads), meta


@pytest.mark.site
def test_every_link_inside_the_site_leads_somewhere(site, texts):
    ids = {
        name: set(re.findall(r'\bid="([^"]+)"', text)) for name, text in texts.items()
    }
    dead = []
    for name, text in texts.items():
        for link in re.findall(r'\b(?:href|src)="([^"]+)"', text):
            parts = urlsplit(html.unescape(link))
            if parts.scheme or parts.netloc:
                continue
            target = unquote(parts.path) or name
            anchor = unquote(parts.fragment)
            if not (site / target).is_file():
                dead.append((name, link))
            elif anchor and target in ids and anchor not in ids[target]:
                dead.append((name, link))
    assert not dead


@pytest.mark.site
def test_addresses_of_exercises_and_sources_do_not_depend_on_numbers(texts):
    first = texts["01_forward_pass.html"]
    for address in ("exercise-batchnorm-forward", "question-gamma-and-beta"):
        assert f'id="{address}"' in first
    second = texts["02_backward_derivation.html"]
    assert '09_batchnorm_in_practice.html#freeze-what-must-not-move"' in second
    assert 'id="source-1"' in first and 'href="#source-1"' in first
    assert re.search('#source-7">.?7</a>, <a [^>]*#source-8">8.?</a>', second)


@pytest.mark.site
def test_every_picture_has_an_alt_text(texts):
    for name, text in texts.items():
        for picture in re.findall(r"<img[^>]*>", text):
            assert re.search(r'alt="[^"]{20,}"', picture), (name, picture)


@pytest.mark.site
def test_nothing_tells_a_solution_or_a_rubric(texts):
    told = _squeezed(" ".join(re.sub(r"<[^>]+>", "", text) for text in texts.values()))
    for path in sorted((ROOT / "lessons").glob("*.md")):
        lesson = parse(path.read_text("utf-8"), path.relative_to(ROOT))
        for cell in lesson.of("exercise"):
            block = _squeezed("".join(cut(cell.source)[1].values()))
            assert block not in told, (path.name, cell.name)
        for cell in lesson.of("rubric"):
            for paragraph in cell.source.split("\n\n"):
                plain = _squeezed(re.sub(r"[*`$\\]", "", paragraph))
                assert len(plain) < 60 or plain not in told, (path.name, paragraph)


def _squeezed(text):
    return re.sub(r"\s", "", html.unescape(text))


# in the browser


@pytest.fixture(scope="module")
def chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    place = {"executable_path": found} if found else {"channel": "chrome"}
    options = ["--no-sandbox", "--disable-background-networking"]
    options.append("--host-resolver-rules=MAP * ~NOTFOUND")  # every host is refused
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**place, args=options)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, site):
    """Open a page of the site; afterwards: no errors, and no request to any host."""
    asked, hosts, errors, contexts = [], set(), [], []

    def missing(request):
        if request.failure == "net::ERR_FILE_NOT_FOUND":
            errors.append(request.url)

    def open_page(name, query="", width=1300, **settings):
        size = {"width": width, "height": 900}
        settings.setdefault("reduced_motion", "reduce")  # colors at rest
        context = chromium.new_context(viewport=size, **settings)
        contexts.append(context)
        tab = context.new_page()
        asked.clear()
        tab.on("request", lambda request: hosts.add(urlsplit(request.url).scheme))
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("requestfailed", missing)
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto((site / name).as_uri() + query)
        return tab

    open_page.asked = asked
    yield open_page
    for context in contexts:
        context.close()
    assert not errors
    assert hosts <= {"file", "data"}


def browsing(function):
    return pytest.mark.site(pytest.mark.browser(function))


@browsing
def test_axe_finds_nothing_on_any_page(visit, texts):
    slow = {"rules": {"color-contrast": {"enabled": False}}}
    assert not [found for name in sorted(texts) for found in _axe(visit(name), slow)]


@browsing
@pytest.mark.parametrize("scheme", ("light", "dark"))
@pytest.mark.parametrize(
    "name",
    # colors are the same everywhere; the whole site takes minutes
    ["index", "01_forward_pass", pytest.param("", marks=pytest.mark.long, id="all")],
)
def test_colors_have_contrast(visit, texts, scheme, name):
    for page_name in [f"{name}.html"] if name else sorted(texts):
        tab = visit(page_name, color_scheme=scheme)
        assert not _axe(tab, {"runOnly": ["color-contrast", "link-in-text-block"]})


def _axe(tab, options):
    """What axe-core finds on a page with everything unfolded; closes the page."""
    axe = npm.read("axe-core", "axe.min.js", ROOT / "build/npm").decode()
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    tab.evaluate(axe)
    found = tab.evaluate(AXE_RUN, options)
    here = tab.url.rsplit("/", 1)[1]
    tab.context.close()
    return [(here, *rule) for rule in found]


# without resultTypes axe describes every element that passes, which takes minutes
AXE_RUN = """async options => {
    const found = await axe.run({...options, resultTypes: ["violations"]});
    return found.violations.map(rule => [rule.id, rule.nodes[0].html]);
}"""


@browsing
def test_axe_finds_nothing_in_a_check_table(visit):
    score = lesson_01.BATCHNORM_FORWARD.score(unbiased, 3, seed=0)
    tab = visit("license.html")
    tab.locator(".bd-article").evaluate(
        "(article, table) => (article.innerHTML = '<h1>Check</h1>' + table)",
        score._repr_html_(),
    )
    assert tab.locator("td", has_text="fails").count() > 1
    assert not _axe(tab, {})


@browsing
@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_is_light_fits_a_phone_and_prints(visit, site, name):
    tab = visit(f"{name}.html", width=390)
    images = "[...document.images]"
    tab.evaluate(f"{images}.forEach(image => image.loading = 'eager')")
    tab.wait_for_function(f"{images}.every(image => image.complete)")
    local = [unquote(urlsplit(url).path) for url in visit.asked]
    files = {site / path.split("/site/", 1)[1] for path in local if "/site/" in path}
    pictures = set((site / "_images").glob("*")) & files
    assert len(pictures) >= 1
    weight = sum(path.stat().st_size for path in files if path.suffix != ".woff2")
    assert weight <= PAGE_BYTES
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert tab.pdf().startswith(b"%PDF")


@browsing
def test_paper_is_white_also_from_a_dark_page_and_shows_what_was_to_guess(visit):
    tab = visit(f"{moving.LESSON}.html", color_scheme="dark")
    tab.emulate_media(media="print")
    for place in (".bd-article p", ".bd-article pre span", ".bd-article math"):
        color = tab.locator(place).first.evaluate("it => getComputedStyle(it).color")
        assert color == "rgb(20, 24, 30)", place
    assert tab.locator("details.guess pre").first.bounding_box()["height"] > 20
    assert not tab.locator("details:not(.guess) > p").first.is_visible()


@browsing
def test_search_finds_a_word_of_lesson_07(visit):
    tab = visit("search.html", query="?q=clinic")
    tab.locator("#search-results a[href*='07_debugging_clinic']").first.wait_for()


@browsing
def test_formulas_are_mathml_in_a_font_that_has_it(visit):
    tab = visit("02_backward_derivation.html")
    assert tab.locator("math").count() > 50
    assert tab.evaluate(
        "document.fonts.load('16px \"STIX Two Math\"').then(f => f.length)"
    )
    assert "\\" not in "".join(tab.locator("math").all_text_contents())


@browsing
def test_the_arithmetic_of_moving_figures_is_the_references(visit):
    tab = visit(f"{moving.LESSON}.html")
    values = moving.numbers(ROOT / "notebooks")
    unit, lesson = np.array(values["unit"]), moving.lesson_values(ROOT / "notebooks")
    for gamma, beta, eps in ((1, 0, 1e-5), (-2.5, 3.1, 1e-5), (0.3, -4, 1.0)):
        want, _ = norms.batchnorm_forward(
            unit[:, None], np.array([float(gamma)]), np.array([float(beta)]), eps
        )
        got = tab.evaluate(
            "([g, b, e]) => Norms.batchnorm(NUMBERS.unit, g, b, e)", [gamma, beta, eps]
        )
        np.testing.assert_allclose(got, want[:, 0], **CLOSE)
    pixels = lesson["a"][:, lesson["a"].std(0) > 0]
    for eps in (1e-8, 1e-5, 1.0):
        want = norms.normalize_forward(pixels, axes=(0,), eps=eps)[0].std(0)
        got = tab.evaluate(
            "e => NUMBERS.pixel_std.map(s => Norms.spreadAfter(s, e))", eps
        )
        np.testing.assert_allclose(got, want, **CLOSE)
    for moved in (-3.0, 1.0, 7.0):
        five = np.array([*values["others"], moved])[:, None]
        got = tab.evaluate("m => Norms.batchnorm([...NUMBERS.others, m])", moved)
        want = norms.normalize_forward(five, axes=(0,))[0][:, 0]
        np.testing.assert_allclose(got, want, **CLOSE)
    training, evaluation = moving.modes(values)
    for N, want in training.items():
        got = tab.evaluate(
            "n => NUMBERS.mates.map(mates => Norms.batchnorm("
            "[NUMBERS.unit[0], ...mates.slice(0, n - 1)])[0])",
            N,
        )
        np.testing.assert_allclose(got, want, **CLOSE)
    for updates, want in evaluation.items():
        got = tab.evaluate(
            "t => { const { mu, var: variances, unit } = NUMBERS;"
            " const r = Norms.runningStatistics(mu, variances, t, 128);"
            " return Norms.inference([unit[0]], 1, 0, r.mean, r.variance)[0]; }",
            updates,
        )
        np.testing.assert_allclose(got, want, **CLOSE)


@browsing
def test_moving_figures_follow_keys_and_the_mouse_and_say_what_changed(visit):
    tab = visit(f"{moving.LESSON}.html")
    figures = tab.locator(".moving")
    names = figures.evaluate_all("all => all.map(one => one.dataset.figure)")
    assert set(names) == {"scale", "eps", "coupling", "modes"}
    for shown in figures.all():
        before = shown.locator("svg").inner_html()
        said = shown.locator("[role=status]").inner_text()
        slider = shown.locator("input").first
        assert tab.locator(f"label[for={slider.get_attribute('id')}]").inner_text()
        spoken = slider.get_attribute("aria-valuetext")
        slider.focus()
        for _ in range(4):
            tab.keyboard.press("ArrowRight")
        assert slider.get_attribute("aria-valuetext") != spoken
        tab.wait_for_timeout(600)
        stepped = shown.locator("svg").inner_html()
        assert stepped != before
        assert shown.locator("[role=status]").inner_text() != said
        slider.scroll_into_view_if_needed()
        box = slider.bounding_box()
        middle = box["y"] + box["height"] / 2
        tab.mouse.move(box["x"] + box["width"] / 2, middle)
        tab.mouse.down()
        tab.mouse.move(box["x"] + box["width"] * 0.95, middle, steps=4)
        tab.mouse.up()
        assert shown.locator("svg").inner_html() != stepped


@browsing
def test_without_scripts_static_figures_stand_and_nothing_is_dead(visit):
    tab = visit(f"{moving.LESSON}.html", java_script_enabled=False)
    assert tab.locator(".bd-article input[type=range]").count() == 0
    assert tab.locator(".moving svg").count() == 0
    for shown in tab.locator(".moving").all():
        above = shown.locator("xpath=preceding::img[1]")
        assert above.is_visible()


@browsing
def test_a_whole_lesson_can_be_read_by_keyboard(visit):
    tab = visit(f"{moving.LESSON}.html")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to main content"
    tab.keyboard.press("Enter")
    folded = tab.locator(".bd-article details").count()
    opened, ranges, unseen = 0, 0, []
    for _ in range(600):
        tab.keyboard.press("Tab")
        here = tab.evaluate(FOCUSED)
        if here["tag"] == "BODY" or here["leaves"]:
            break
        if not here["outlined"]:
            unseen.append(here["text"])
        if here["tag"] == "SUMMARY":
            tab.keyboard.press("Enter")
            opened += tab.evaluate("document.activeElement.parentElement.open")
        ranges += here["type"] == "range"
    assert (opened, unseen) == (folded, [])
    assert ranges == tab.locator(".moving input").count()


FOCUSED = """() => {
    const here = document.activeElement, style = getComputedStyle(here);
    return {
        tag: here.tagName,
        type: here.type ?? "",
        text: here.outerHTML.slice(0, 100),
        outlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
        leaves: Boolean(here.closest(".prev-next-footer, footer")),
    };
}"""
