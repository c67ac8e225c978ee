"""Stands where a module of the course is that submissions are graded without."""


class Absent:
    """Whatever is asked for: it can be named, and used for nothing."""

    def __init__(self, name):
        self.__dict__["_name"] = name

    def _refuse(self, *args, **kwargs):
        raise RuntimeError(
            f"{self._name} is not there when a submission is graded: an answer has "
            "to stand on its own"
        )

    __call__ = __enter__ = __iter__ = __getitem__ = __mro_entries__ = _refuse

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(f"{self._name}.{name}")

    def __repr__(self):
        return f"<{self._name}, which is not there when a submission is graded>"


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return Absent(f"{__name__}.{name}")
