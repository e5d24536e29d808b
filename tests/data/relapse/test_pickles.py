"""Pickles: arrays and plain values come out as they went in, and nothing that a file names is run."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fusion_lab.contracts import DataError
from fusion_lab.data.relapse.pickles import plain, read_pickle

KINDS = st.sampled_from(["b1", "i1", "<i4", ">i4", "i8", "u2", "f2", "<f4", ">f8", "U3"])


def named(module: str, name: str) -> bytes:
    """The part of a pickle that names something."""
    return f"c{module}\n{name}\n".encode()


def value(what: object) -> bytes:
    """The part of a pickle that makes a plain value."""
    return pickle.dumps(what, 2)[2:-1]


def call(function: bytes, *arguments: bytes) -> bytes:
    """The part of a pickle that calls what is named with values that are made."""
    return function + b"(" + b"".join(arguments) + b"tR"


def whole(part: bytes) -> bytes:
    return b"\x80\x02" + part + b"."


def refusal(path):
    with pytest.raises(DataError) as error:
        read_pickle(path)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{path}: expected ")
    return line


@given(
    array=hnp.arrays(KINDS, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)),
    protocol=st.sampled_from([3, 4, 5]),
)
@settings(max_examples=60, deadline=None)
def test_arrays_come_out_as_they_went_in(array, protocol, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "arrays.pkl"
    for own in (array, array.T, array[..., ::2]):
        path.write_bytes(pickle.dumps({"x": own, "again": own}, protocol))
        read = read_pickle(path)
        found = plain(read["x"])
        assert (found.dtype, found.shape) == (own.dtype, own.shape)
        assert found.tobytes() == own.tobytes()
        assert read["again"] is read["x"]


def test_numbers_of_numpy_and_plain_values_come_out(tmp_path):
    value = [{"a": 1, "b": (True, None, "x", b"y", 2.5), 3: [{}]}, np.float32(1.5), np.int64(-7), np.bool_(True)]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value))
    first, *numbers = read_pickle(tmp_path / "x.pkl")
    assert first == value[0]
    assert [plain(number) for number in numbers] == [1.5, -7, True]


MALICE = [
    ("os", "system", ["touch {}"]),
    ("posix", "system", ["touch {}"]),
    ("subprocess", "Popen", [["touch", "{}"]]),
    ("builtins", "eval", ["open('{}', 'w')"]),
    ("builtins", "exec", ["open('{}', 'w')"]),
    ("builtins", "open", ["{}", "w"]),
    ("__builtin__", "open", ["{}", "w"]),
    ("builtins", "getattr", ["", "join"]),
    ("numpy", "load", ["{}"]),
    ("numpy", "savetxt", ["{}", [1.0]]),
    ("numpy", "ndarray.tofile", ["{}"]),
    ("numpy.testing._private.utils", "runstring", ["open('{}', 'w')", {}]),
    ("numpy.core.multiarray", "fromfile", ["{}"]),
    ("copyreg", "_reconstructor", [None, None, None]),
    ("torch", "load", ["{}"]),
]


def filled(arguments: object, path: str) -> object:
    """With the path in the place of ``{}``."""
    if isinstance(arguments, list):
        return [filled(argument, path) for argument in arguments]
    return arguments.replace("{}", path) if isinstance(arguments, str) else arguments


WRAPS = {
    "alone": lambda bad: bad,
    "in a list": lambda bad: b"]" + bad + b"a",
    "in a dict": lambda bad: b"]}" + value("features") + bad + b"sa",
    "as an argument": lambda bad: call(named("numpy", "dtype"), bad),
    "as contents": lambda bad: call(named("numpy.core.multiarray", "_reconstruct"), value(0)) + bad + b"b",
}


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize(("module", "name", "arguments"), MALICE, ids=[f"{m}.{n}" for m, n, _ in MALICE])
def test_a_function_is_refused_by_its_name_and_not_run(tmp_path, module, name, arguments, wrap):
    planted = tmp_path / "planted"
    made = [value(one) for one in filled(arguments, str(planted))]
    (tmp_path / "x.pkl").write_bytes(whole(WRAPS[wrap](call(named(module, name), *made))))
    assert refusal(tmp_path / "x.pkl").endswith(f"found {module}.{name}, which is not loaded")
    assert not planted.exists()


def test_the_planted_pickle_does_harm_where_it_is_simply_loaded(tmp_path):
    """So that the test above can fail."""
    planted = tmp_path / "planted"
    content = whole(call(named("builtins", "open"), value(str(planted)), value("w")))
    pickle.loads(content).close()  # noqa: S301 - the harm is an empty file
    assert planted.exists()


DTYPE = call(named("numpy", "dtype"), value("f4"), value(False), value(True))
ARRAY = call(named("numpy._core.multiarray", "_reconstruct"), named("numpy", "ndarray"), value((0,)), value("b"))


@pytest.mark.parametrize(
    ("part", "found"),
    [
        (call(named("numpy", "dtype"), value("O8")), "an array of type 'O8'"),
        (call(named("numpy", "dtype"), value("V8")), "an array of type 'V8'"),
        (DTYPE + value((3, "<", None, ("a",), {}, -1, -1, 0)) + b"b", "an array of records"),
        (DTYPE + value("<") + b"b", "a type of no known form"),
        (call(named("numpy", "ndarray"), value((2,))), "a call of numpy.ndarray, which is not made"),
        (named("numpy", "dtype") + value({"_run": 1}) + b"b", "a function that is to be changed"),
        (ARRAY + value(7) + b"b", "an array without its contents"),
        (ARRAY + value((1, (2,), None, False, [1, 2])) + b"b", "an array of Python objects"),
    ],
)
def test_types_that_could_lie_about_memory_are_refused(tmp_path, part, found):
    (tmp_path / "x.pkl").write_bytes(whole(part))
    assert refusal(tmp_path / "x.pkl").endswith(f"found {found}")


def test_an_array_of_more_than_its_bytes_is_refused(tmp_path):
    content = pickle.dumps(np.arange(6, dtype=np.float32).reshape(2, 3).T[:, ::2], 3)
    small = content.replace(b"K\x03K\x01\x86", b"K\xffK\xff\x86")
    assert small != content
    (tmp_path / "x.pkl").write_bytes(small)
    assert "bytes of an array of shape (255, 255)" in refusal(tmp_path / "x.pkl")


@pytest.mark.parametrize("protocol", [3, 5])
def test_a_pickle_that_breaks_off_anywhere_is_refused_in_one_line(tmp_path, protocol):
    content = pickle.dumps([{"a": np.arange(3.0), "b": np.float32(1)}], protocol)
    for end in range(len(content)):
        (tmp_path / "x.pkl").write_bytes(content[:end])
        refusal(tmp_path / "x.pkl")


def test_a_file_that_cannot_be_opened_is_told(tmp_path):
    assert "expected a readable file" in refusal(tmp_path / "none.pkl")
