"""Files of packages on npm: each version pinned, each download checked."""

import base64
import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path

# package -> its version and the sha512 that npm gives for it
PINS = {
    "@fontsource/stix-two-math": (
        "5.3.0",
        "negoeozw6VSXjZMozwKRSm/dhCQT62csZcuea9I8KYqPaZq/8KbbBBrA02ZHF7AyuR5mVML/p+q0bwFuSIf2GQ==",
    ),
    "axe-core": (
        "4.14.1",
        "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
    ),
}


class NpmError(Exception):
    """What is missing, and what to do about it."""


def read(package, path, cache):
    """The bytes of one file of a package.

    Args:
        package: one of PINS.
        path: of the file in the package, such as "axe.min.js".
        cache: a folder that keeps downloads; what is there needs no network.

    Raises:
        NpmError: npm is missing, gives nothing, or gives something else.
    """
    version, wanted = PINS[package]
    archive = Path(cache) / f"{package.strip('@').replace('/', '-')}-{version}.tgz"
    if not archive.exists():
        _download(f"{package}@{version}", archive.parent)
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != wanted:
        archive.unlink()
        raise NpmError(
            f"npm gave another {package} {version} than the one that was tested: its "
            f"sha512 is {found}, expected {wanted}. Run this again."
        )
    with tarfile.open(archive) as files:
        return files.extractfile(f"package/{path}").read()


def _download(what, folder):
    npm = shutil.which("npm")
    if npm is None:
        raise NpmError(
            f"npm is needed once, to fetch {what}; it is not installed. Install it (on "
            "Debian and Ubuntu: sudo apt install npm), and run this again."
        )
    folder.mkdir(parents=True, exist_ok=True)
    pack = [npm, "pack", "--silent", "--ignore-scripts", what]
    result = subprocess.run(pack, cwd=folder, capture_output=True, encoding="utf-8")
    if result.returncode:
        raise NpmError(f"npm could not fetch {what}: {result.stderr.strip()}")
