"""How values cross the border between the grader and the sandbox.

JSON, and arrays as base64 of their bytes with type and shape. Nothing is unpickled, and
reading builds nothing but plain values: what has no place here crosses as the name of
its type. This file runs on both sides and needs NumPy alone.
"""

import base64
import json
import math
import re
import struct

import numpy as np

DEPTH = 8
TEXT = 10_000
ITEM = 300  # characters of a text among others: NumPy gives each the longest one's room
ITEMS = 500_000  # of one list
BITS = 10_000  # of a number
BYTES = 30_000_000  # of one array
LISTS = 200_000  # lists and objects of a message
VALUES = 2_000_000  # of a message
HEAD = struct.Struct(">I")
DTYPE = re.compile(r"[<>|=]?([fiu][1248]|f16|c8|c16|b1)")


class Foreign:
    """Stands for a value that cannot cross; only the name of its type did."""


class BadMessage(ValueError):
    """The other side sent something that is no message."""


def foreign(name):
    """A value whose type has this name, as far as a name may go."""
    return type(_identifier(name), (Foreign,), {})()


def _identifier(name):
    name = str(name)[:60]
    return name if name.isidentifier() else "object"


def encode(value, depth=DEPTH):
    """A value as what JSON can hold."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return _array(value)
    if isinstance(value, int | float):
        return float(value) if isinstance(value, float) else _whole_number(value)
    if isinstance(value, str):
        return str(value)[:TEXT]
    if isinstance(value, tuple | list) and depth:
        items = [encode(item, depth - 1) for item in value]
        return {"tuple": items} if isinstance(value, tuple) else items
    if hasattr(value, "detach"):  # a tensor, without importing torch to know
        return _array(value.detach().cpu().numpy())
    return {"type": type(value).__name__}


def _whole_number(value):
    bits = int.bit_length(value)
    if bits > BITS:  # Python refuses to write it out
        raise BadMessage(f"a number of {bits} bits; {BITS} may cross")
    return int(value)


def _array(value):
    if value.nbytes > BYTES:
        raise BadMessage(f"an array of {value.nbytes} bytes; {BYTES} may cross")
    array = np.array(value, subok=False, order="C")
    if not DTYPE.fullmatch(array.dtype.str):
        return {"type": f"array_of_{array.dtype.name}"}
    data = base64.b64encode(array.data).decode()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}


def decode(value, depth=2 * DEPTH):
    """What `encode` was given.

    Raises:
        BadMessage: this is not what `encode` makes.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if not depth:
        raise BadMessage("too deep")
    if isinstance(value, list):
        return _items(value, depth)
    match value:
        case {"tuple": list(items), **rest} if not rest:
            return tuple(_items(items, depth))
        case {"type": str(name), **rest} if not rest:
            return foreign(name)
        case {"dtype": str(dtype), "shape": list(shape), "data": str(data), **rest}:
            if not rest:
                return _plain_array(dtype, shape, data)
    raise BadMessage("a value of an unknown kind")


def _items(values, depth):
    if len(values) > ITEMS:
        raise BadMessage(f"{len(values)} values in a list; {ITEMS} may cross")
    if any(isinstance(value, str) and len(value) > ITEM for value in values):
        raise BadMessage(f"a text of more than {ITEM} characters in a list")
    return [decode(value, depth - 1) for value in values]


def _plain_array(dtype, shape, data):
    if not DTYPE.fullmatch(dtype) or len(shape) > 16:
        raise BadMessage("an array of an unknown kind")
    if any(type(n) is not int or n < 0 for n in shape):
        raise BadMessage("an array without a shape")
    try:
        raw = base64.b64decode(data, validate=True)
        if math.prod(shape) * np.dtype(dtype).itemsize != len(raw):
            raise BadMessage("an array whose size is not that of its data")
        return np.frombuffer(raw, dtype).reshape(shape).copy()[()]  # 0-d: a scalar
    except (TypeError, ValueError) as error:
        raise BadMessage(f"an array that cannot be read: {error}") from None


def pack(message, most):
    """A message as bytes: its length, then JSON.

    Raises:
        BadMessage: it is longer than `most` bytes.
    """
    body = json.dumps(message).encode()
    if len(body) > most:
        raise BadMessage(f"an answer of {len(body)} bytes, at most {most} may cross")
    return HEAD.pack(len(body)) + body


def unpack(body):
    """The message that JSON holds.

    Each value takes many times its room in the text, so they are counted before.

    Raises:
        BadMessage: it holds none.
    """
    lists = body.count(b"[") + body.count(b"{")
    if lists > LISTS or body.count(b",") > VALUES:
        raise BadMessage(f"{lists} lists in an answer; {LISTS} may cross")
    try:
        message = json.loads(body.decode("ascii"))
    except (ValueError, RecursionError):
        raise BadMessage("no JSON") from None
    if not isinstance(message, dict):
        raise BadMessage("no message")
    return whole(message) if b"\\ud" in body or b"\\uD" in body else message


def whole(value):
    """A message without half characters, which no file can hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [whole(item) for item in value]
    if isinstance(value, dict):
        return {whole(key): whole(item) for key, item in value.items()}
    return value
