"""Package indexes on this machine, and a course so small that real pip sets it up."""

import base64
import hashlib
import io
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

BACKEND = """
import zipfile

NAME = "bn_helpers-1.0.0"

def build_editable(folder, config_settings=None, metadata_directory=None):
    lines = open("requires.txt").read().split("\\n")
    head = "Metadata-Version: 2.1\\nName: bn_helpers\\nVersion: 1.0.0\\n"
    head += "".join(f"Requires-Dist: {line}\\n" for line in lines if line)
    with zipfile.ZipFile(f"{folder}/{NAME}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{NAME}.dist-info/METADATA", head)
        tag = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr(f"{NAME}.dist-info/WHEEL", tag)
        wheel.writestr(f"{NAME}.dist-info/RECORD", "")
    return f"{NAME}-py3-none-any.whl"
"""
NEEDED = "jupyterlab", "matplotlib", "numpy", "sympy", "torch", "torchvision"
VERSIONS = {"torch": "2.15.0", "torchvision": "0.29.2"}
PYPROJECT = f"""
[build-system]
requires = []
build-backend = "backend"
backend-path = ["tools"]

[project]
name = "bn_helpers"
version = "1.0.0"
dependencies = [{", ".join(f'"{name}>=0.2,<3"' for name in NEEDED)}]

[project.optional-dependencies]
test = []
"""
# the modules that the course imports once, and what it asks of them
MODULES = {
    "matplotlib": {"matplotlib/__init__.py": "", "matplotlib/font_manager.py": ""},
    "jupyterlab": {
        "jupyterlab/__init__.py": "",
        "jupyterlab/__main__.py": "import sys; print('serving', sys.argv[1:])",
        "ipykernel/__init__.py": "",
        "ipykernel/kernelapp.py": "",
        "jupyter_client/__init__.py": "",
        "jupyter_client/kernelspec.py": (
            "class get_kernel_spec:\n"
            "    def __init__(self, _):\n"
            "        self.argv = ['python']\n"
        ),
    },
}


def shrink(root):
    """Make a copy of the course need stand-ins only."""
    (root / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    (root / "tools" / "backend.py").write_text(BACKEND, encoding="utf-8")
    requires = "\n".join(f"{name}>=0.2,<3" for name in NEEDED)
    (root / "requires.txt").write_text(requires, encoding="utf-8")
    lock = "".join(f"{name}=={VERSIONS.get(name, '1.0')}\n" for name in NEEDED)
    (root / "requirements.lock").write_text(lock, encoding="utf-8")


def wheel(name, version, requires=(), pad=0):
    """Name and bytes of a wheel that holds a module of that name."""
    files = MODULES.get(name, {f"{name}/__init__.py": f"__version__ = {version!r}"})
    info = f"{name}-{version}.dist-info"
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    head += "".join(f"Requires-Dist: {line}\n" for line in requires)
    tag = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
    files = files | {
        f"{info}/METADATA": head,
        f"{info}/WHEEL": tag + "Tag: py3-none-any\n",
        **{f"{name}/pad_{i}.py": "# " + "x" * 80 for i in range(pad)},
    }
    record = "".join(f"{path},{digest(text)},\n" for path, text in files.items())
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path, text in (files | {f"{info}/RECORD": record}).items():
            archive.writestr(path, text)
    return f"{name}-{version}-py3-none-any.whl", content.getvalue()


def digest(text):
    raw = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Index:
    """A package index; `asked` is the list of paths that were asked for."""

    def __init__(self, wheels=(), answer=None):
        self.files, self.asked = dict(wheels), []
        self.answer = answer or Index.serve
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/simple"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def handler(index):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                index.asked.append(self.path)
                index.answer(index, self)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        return Handler

    def serve(self, request):
        name = unquote(request.path.rstrip("/").rpartition("/")[2])
        if name in self.files:
            return reply(request, self.files[name], "application/zip")
        name = name.replace("-", "_")
        links = [f for f in self.files if f.partition("-")[0] == name]
        page = "".join(
            f'<a href="/files/{f.replace("+", "%2B")}">{f}</a>' for f in links
        )
        return reply(request, page.encode(), code=200 if links else 404)


def reply(request, content, kind="text/html", code=200):
    request.send_response(code)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)


# what else may answer where an index should be


def hangs(index, request):
    time.sleep(60)


def drips(index, request):
    request.send_response(200)
    request.send_header("Content-Type", "text/html")
    request.end_headers()
    for _ in range(100):
        request.wfile.write(b" ")
        request.wfile.flush()
        time.sleep(1)


def babbles(index, request):
    reply(request, b"<h1>Welcome to the airport! Please log in</h1>")


def fails(index, request):
    reply(request, b"out of order", code=503)


def lies(index, request):
    """Links to a wheel, and sends no wheel."""
    if request.path.endswith(".whl"):
        return reply(request, b"no zip at all", "application/zip")
    name = request.path.rstrip("/").rpartition("/")[2]
    file = f"{name}-{VERSIONS.get(name, '1.0')}%2Bcpu-py3-none-any.whl"
    return reply(request, f'<a href="/files/{file}">{file}</a>'.encode())


def breaks_off(index, request):
    """Begins to send a wheel, and hangs up."""
    if not request.path.endswith(".whl"):
        return lies(index, request)
    request.send_response(200)
    request.send_header("Content-Length", "100000")
    request.end_headers()
    return request.wfile.write(b"PK\x03\x04")
