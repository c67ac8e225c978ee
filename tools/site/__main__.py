"""Build the reading edition: `python -m tools.site`.

It writes build/site, which any web server can serve and any browser can open as it
is, and build/site.zip, the same for reading offline.
"""

import argparse
import html
import re
import shutil
import sys
import time
import zipfile
from pathlib import Path

import nbformat

from . import moving, npm, pages

ROOT = Path(__file__).resolve().parents[2]
ASSETS = Path(__file__).with_name("assets")
FONT = "@fontsource/stix-two-math"
# what the theme writes -> what a page needs, and why
REPAIRS = {
    # course.css has the few icons that pages show
    r"<script[^>]*/fontawesome\.js[^>]*></script>": "",
    # a label that hides the button's visible text from voice control
    r'(<button class="btn search-button-field[^>]*?) title="Search" '
    r'aria-label="Search"': r"\1",
    # a table's corner is no header; its other heads say what they are heads of
    r'<th class="head"><p></p></th>': "<td></td>",
    r'<th class="head([^>]*)>': r'<th scope="col" class="head\1>',
    # a landmark, so that nothing on the page is outside of one
    r'<div id="pst-primary-sidebar"': '<div role="complementary" '
    'aria-label="Course" id="pst-primary-sidebar"',
}
UNUSED = (
    "objects.inv",
    ".buildinfo",
    "_sources",
    "_static/locales",
    "_static/vendor",
    "_static/scripts/fontawesome.*",
    "_static/**/*.map",
)
FONT_FILE = "files/stix-two-math-latin-400-normal.woff2"


def write_pages(root, folder, numbers):
    """Write what Sphinx reads: a Markdown page per lesson and README, with figures."""
    modes = pages.Extra("modes", moving.BELOW, *moving.draw_modes(numbers))
    stems = []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        nb = nbformat.read(path, as_version=4)
        extra = modes if path.stem == moving.LESSON else None
        _write(folder, path.stem, pages.lesson_page(nb, path.stem, extra))
        stems.append(path.stem)
    for path, name in pages.PAGES.items():
        text = (root / path).read_text(encoding="utf-8")
        if name == "index":
            _write(folder, name, pages.front_page(text, stems))
        else:
            _write(folder, name, pages.course_page(text, path))
    text = (root / "LICENSE").read_text(encoding="utf-8")
    _write(folder, "license", pages.license_page(text))
    shutil.copy(root / "notebooks/cover.png", folder)


def _write(folder, name, page):
    for path, content in {**page.files, f"{name}.md": page.text.encode()}.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def write_assets(root, folder, numbers, say=print):
    """Write style sheet, scripts, their numbers, and the font for formulas."""
    shutil.copytree(ASSETS, folder)
    (folder / "numbers.js").write_text(moving.as_script(numbers), encoding="utf-8")
    try:
        font = npm.read(FONT, FONT_FILE, root / "build/npm")
    except npm.NpmError as error:
        say(f"Formulas will be drawn in the reader's own font. {error}")
    else:
        (folder / "stix-two-math.woff2").write_bytes(font)


def build(root=ROOT, out=None, address="", say=print):
    """Build the site; a warning of Sphinx is an error.

    Args:
        root: of the course.
        out: the folder to make, build/site by default; what was there is replaced.
        address: where the site will be served, for search engines and link previews.

    Returns: 0, or Sphinx's exit code.
    """
    from sphinx.cmd.build import build_main

    out = Path(out or root / "build/site")
    source = out.with_name(out.name + "-source")
    for folder in (out, source, Path(str(out) + "-doctrees")):
        shutil.rmtree(folder, ignore_errors=True)
    numbers = moving.numbers(root / "notebooks")
    write_pages(root, source, numbers)
    write_assets(root, source / "_static", numbers, say)
    settings = ["-D", f"html_static_path={source / '_static'}"]
    settings += ["-D", f"html_baseurl={address}"] if address else []
    failed = build_main(
        ["-q", "-W", "--keep-going", "-b", "html", "-c", str(Path(__file__).parent)]
        + ["-d", str(out) + "-doctrees", *settings, str(source), str(out)]
    )
    if not failed:
        _finish(root, out, address)
    return failed


def announce(out, address):
    """Add a sitemap, and to every page the picture that a link preview shows."""
    address = address.rstrip("/")
    picture = f"{address}/_images/cover.png"
    head = f'<meta property="og:image" content="{html.escape(picture)}" />\n</head>'
    places = []
    for path in sorted(out.glob("*.html")):
        text = path.read_text(encoding="utf-8").replace("</head>", head, 1)
        path.write_text(text, encoding="utf-8", newline="\n")
        places.append(f"<url><loc>{html.escape(f'{address}/{path.name}')}</loc></url>")
    (out / "sitemap.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
        + "\n".join([*places, "</urlset>\n"]),
        encoding="utf-8",
    )


def _finish(root, out, address):
    """Add the notebooks to take home, drop what no page needs, and pack it all."""
    (out / "downloads").mkdir()
    for path in (root / "notebooks").glob("*.ipynb"):
        shutil.copy(path, out / "downloads")
    for path in out.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        for pattern, better in REPAIRS.items():
            text = re.sub(pattern, better, text)
        path.write_text(text, encoding="utf-8", newline="\n")
    for pattern in UNUSED:
        for path in list(out.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if address:
        announce(out, address)
    with zipfile.ZipFile(out.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as pack:
        for path in sorted(filter(Path.is_file, out.rglob("*"))):
            pack.write(path, path.relative_to(out.parent))


def external_links(out):
    """Every address outside the site that a page leads to, with the pages."""
    found = {}
    for path in sorted(Path(out).glob("*.html")):
        text = path.read_text(encoding="utf-8")
        for link in re.findall(r'<a [^>]*href="(https?://[^"]+)"', text):
            found.setdefault(link, set()).add(path.name)
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(prog="tools.site", description=__doc__)
    parser.add_argument("--address", default="", help="where the site will be served")
    parser.add_argument("--links", action="store_true", help="list links to elsewhere")
    args = parser.parse_args(argv)
    begin = time.monotonic()
    if failed := build(address=args.address):
        sys.exit(failed)
    if args.links:
        for link, names in external_links(ROOT / "build/site").items():
            print(link, "from", ", ".join(sorted(names)))
    print(f"build/site is new ({time.monotonic() - begin:.0f} s); open index.html.")


if __name__ == "__main__":
    main()
