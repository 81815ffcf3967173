"""multipart/form-data: what is a file in it, and what is none."""

from __future__ import annotations

import contextlib

import pytest
from asked_server import multipart
from hypothesis import example, given
from hypothesis import strategies as st

from cifar_hapi.serving.multipart import BrokenMultipart, Part, TooManyParts, boundary_of, parts_of

DISPOSITION = b'Content-Disposition: form-data; name="a"'


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('multipart/form-data; boundary="a b:c"; charset=utf-8', b"a b:c"),
        (
            "multipart/form-data; charset=utf-8; BOUNDARY=----WebKitFormBoundary7MA4YWxk",
            b"----WebKitFormBoundary7MA4YWxk",
        ),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary=", None),
        ('multipart/form-data; boundary=""', None),
        ("multipart/form-data; boundary=" + 71 * "x", None),
        ("multipart/form-data; boundary=ä", None),
    ],
)
def test_the_boundary_is_what_the_header_names(content_type, boundary):
    if boundary:
        assert boundary_of(content_type) == boundary
    else:
        with pytest.raises(BrokenMultipart, match="names no boundary"):
            boundary_of(content_type)


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (b'; filename="cat.png"', "cat.png"),
        ('; filename="猫.png"'.encode(), "猫.png"),
        (b'; filename="a%22b%0D%0A.png"', 'a"b\r\n.png'),
        (rb'; filename="a\"b\\c.png"', r'a"b\c.png'),
        (b'; FileName="x"', "x"),
        (b'; filename="\xff"', "\N{REPLACEMENT CHARACTER}"),
        (b"", ""),
        (b'; filename=""', ""),
        (b'; filename="unclosed', ""),
    ],
)
def test_files_are_called_as_browsers_call_them(parameters, name):
    body = b"--b\r\n" + DISPOSITION + parameters + b"\r\nContent-Type: image/png\r\n\r\nx\r\n--b--"
    assert parts_of(body, b"b", 1) == [Part(name, b"x")]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "is not in it"),
        (b"--c--", "is not in it"),
        (b"--b", "ends before its last boundary"),
        (b"--b\r\n" + DISPOSITION + b"\r\n\r\nx", "ends before"),
        (b"--b\r\n" + DISPOSITION + b"\r\n\r\nx--b--", "ends before"),  # a boundary begins a line
        (b"--b\r\n\r\n\r\nx\r\n--b--", "no content disposition"),
        (b"--b\r\nContent-Type: a/b\r\n\r\nx\r\n--b--", "no content disposition"),
        (b"--b\r\nContent-Disposition: attachment; filename=x\r\n\r\nx\r\n--b--", "no content disposition"),
        (b"--b\r\n" + DISPOSITION + b"\r\n--b--", "no end of its header"),
        (b"--bad\r\n" + DISPOSITION + b"\r\n\r\nx\r\n--b--", "does not end its line"),
        (b"--b\r\n" + DISPOSITION + b"; x=" + 4096 * b"y" + b"\r\n\r\nx\r\n--b--", "more than 4,096 bytes"),
    ],
)
def test_a_broken_body_is_told_as_such(body, reason):
    with pytest.raises(BrokenMultipart, match=reason):
        parts_of(body, b"b", 5)


NAMES = st.text(st.characters(exclude_characters='"\\\r\n%', exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.tuples(NAMES, st.binary(max_size=50).filter(lambda data: b"--between" not in data)), max_size=4))
@example([("", b"\r\n"), ("a", b"--betwee"), ("b", b"\r\n--"), ("c", b"")])
def test_what_is_sent_comes_back_as_it_was(files):
    assert [(part.name, part.content) for part in parts_of(multipart(*files), b"between", 4)] == files


@given(st.integers(0, 9), st.integers(0, 9))
def test_too_many_are_told_from_enough(count, most):
    body = multipart(*[("a", b"x")] * count)
    if count <= most:
        assert len(parts_of(body, b"between", most)) == count
    else:
        with pytest.raises(TooManyParts):
            parts_of(body, b"between", most)


PIECES = st.sampled_from(
    [b"--b", b"--", b"\r\n", b"\r\n--b", b"\r\n--b--", DISPOSITION, b"\r\n\r\n", b" ", b'; filename="', b"x", b"\0"]
)


@given(st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=20).map(b"".join)))
def test_whatever_is_sent_is_parts_or_broken(body):
    with contextlib.suppress(BrokenMultipart, TooManyParts):
        assert all(isinstance(part, Part) for part in parts_of(body, b"b", 3))
