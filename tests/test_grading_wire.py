"""Values across the border: what goes in comes out, and nothing else ever does."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from grading.inside import wire

DTYPES = st.sampled_from(["f4", "f8", "i1", "i4", "i8", "u2", "?", ">f8", "f2"])


def across(value):
    """A value as the other side sees it."""
    packed = wire.pack({"value": wire.encode(value)}, 10**8)
    return wire.decode(wire.unpack(packed[wire.HEAD.size :])["value"])


@given(hnp.arrays(DTYPES, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0)))
def test_arrays_cross_unchanged(array):
    got = across(array)
    assert got.dtype == array.dtype and got.shape == array.shape
    assert got.tobytes() == array.tobytes()
    assert got.flags.writeable


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=8,
)


@given(PLAIN)
def test_plain_values_cross_unchanged(value):
    assert across(value) == value


def test_numbers_keep_their_kind():
    assert math.isnan(across(float("nan"))) and across(math.inf) == math.inf
    assert isinstance(across(np.float32(1.5)), np.float32)
    assert isinstance(across(True), bool)


def test_tensors_cross_as_arrays_also_with_a_gradient():
    x = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    np.testing.assert_array_equal(across(2 * x), np.full((2, 3), 2.0))


def test_a_subclass_crosses_as_what_it_is_made_of():
    class Odd(np.ndarray):
        def __eq__(self, other):
            return True

    class Three(float):
        def __eq__(self, other):
            return True

    assert type(across(np.ones(3).view(Odd))) is np.ndarray
    assert type(across(Three(3))) is float


@pytest.mark.parametrize(
    "value", [object(), {"a": 1}, {1}, len, np.array([object()]), np.array(["text"])]
)
def test_of_what_cannot_cross_the_type_is_told(value):
    got = across(value)
    assert isinstance(got, wire.Foreign)
    assert type(got).__name__.isidentifier()


def test_depth_and_size_have_an_end():
    endless = []
    endless.append(endless)
    across(endless)
    with pytest.raises(wire.BadMessage, match="may cross"):
        wire.encode(np.zeros(wire.BYTES))
    with pytest.raises(wire.BadMessage, match="at most 10"):
        wire.pack({"value": "x" * 100}, 10)


FORGED = [
    {"dtype": "|O8", "shape": [1], "data": "gASV"},
    {"dtype": "<f8", "shape": [2**62, 2**62], "data": ""},
    {"dtype": "<f8", "shape": [-1], "data": ""},
    {"dtype": "<f8", "shape": [True], "data": "AAAAAAAAAAA="},
    {"dtype": "<f8", "shape": [1], "data": "not base64"},
    {"dtype": "<f8", "shape": [1], "data": "AAAA"},
    {"dtype": "<f8", "shape": [1] * 40, "data": "AAAAAAAAAAA="},
    {"dtype": "V8", "shape": [1], "data": "AAAAAAAAAAA="},
    {"type": 3},
    {"tuple": 3},
    {"tuple": [], "more": 1},
    {"pickle": "gASV"},
    {},
    [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]],
]


@pytest.mark.parametrize("value", FORGED, ids=str)
def test_forged_values_are_refused(value):
    with pytest.raises(wire.BadMessage):
        wire.decode(value)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data):
    try:
        assert isinstance(wire.unpack(data), dict)
    except wire.BadMessage:
        pass


@pytest.mark.parametrize("body", [b"[1]", b"7", b"{", b"[" * 100_000, b"9" * 10_000])
def test_what_is_no_message_is_refused(body):
    with pytest.raises(wire.BadMessage):
        wire.unpack(body)


def test_the_name_of_a_type_cannot_be_anything():
    for name in ("a b", "x" * 1000, "__import__('os')", "\n", ""):
        got = wire.decode({"type": name})
        assert type(got).__name__.isidentifier() and len(type(got).__name__) <= 60
    assert json.loads(json.dumps(wire.encode(object()))) == {"type": "object"}
