"""What touches a student's files. Nothing here takes the place of what is there."""

import datetime
import json
import os
from pathlib import Path


class Problem(Exception):
    """What stops the course, and what to do about it, in one paragraph."""


def say(text):
    print(text, flush=True)


def read_notebook(path):
    """A notebook as saved by any editor: line ends and a byte order mark are no matter.

    Raises:
        ValueError: it is no notebook.
    """
    content = path if isinstance(path, bytes) else Path(path).read_bytes()
    notebook = json.loads(content.decode("utf-8-sig"))
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise ValueError("no notebook")
    return notebook


def dumps(notebook):
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def write_new(path, content):
    """Write a file that must not be there yet: the whole file or, if killed, none.

    Raises:
        FileExistsError: it is there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = content if isinstance(content, bytes) else content.encode("utf-8")
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        draft.write_bytes(content)
        place(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def place(draft, path):
    """Give a file its name, unless something has that name."""
    if os.name == "nt":
        return os.rename(draft, path)  # refuses there what is taken
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError:  # a disk without hard links, such as a memory stick
        if path.exists():
            raise FileExistsError(f"{path} is there already") from None
        os.rename(draft, path)


def kept_name(path):
    """A dated name for an earlier file that nothing has yet."""
    stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H%M")
    kept = path.with_name(f"{path.stem}_kept-{stamp}{path.suffix}")
    count = 1
    while kept.exists():
        count += 1
        kept = path.with_name(f"{path.stem}_kept-{stamp}-{count}{path.suffix}")
    return kept


def renew(path, text, root):
    """Put a new text at a student's path, and keep what was there.

    Returns: whether the file was written.
    """
    if path.exists() and path.read_bytes() == text.encode():
        say(f"{path.relative_to(root)} is new already.")
        return False
    if path.exists():
        kept = kept_name(path)
        path.rename(kept)
        say(f"Your earlier file is kept as {kept.relative_to(root)}")
    write_new(path, text)
    say(f"New: {path.relative_to(root)} (reload it where JupyterLab has it open)")
    return True
