"""What authors run: the builder, its rules, and the environment of every kernel."""

import sys

# Reading notebooks imports jsonschema, which loads a grammar of IRIs where it finds
# this package: a second, in each process, for a format that no notebook has.
sys.modules.setdefault("rfc3987_syntax", None)

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
LEAKS = ("MPLBACKEND", "BN_HELPERS_CHECK_SEED")


def pin(environ, threads=1):
    """Make kernels started from `environ` print the same numbers everywhere."""
    environ.update(dict.fromkeys(THREADS, str(threads)), PYTHONHASHSEED="0")
    for name in LEAKS:
        environ.pop(name, None)
    return environ
