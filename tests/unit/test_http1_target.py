"""Hosts and paths; more of both stands in the corpus and in the properties."""

from __future__ import annotations

import pytest

from kernelq import _coretest


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"/", b"/"),
        (b"/a/b", b"/a/b"),
        (b"/a/", b"/a/"),
        (b"//", b"//"),
        (b"/a//b", b"/a//b"),
        (b"/.", b"/"),
        (b"/..", b"/"),
        (b"/./", b"/"),
        (b"/a/.", b"/a/"),
        (b"/a/..", b"/"),
        (b"/a/b/..", b"/a/"),
        (b"/a/b/../", b"/a/"),
        (b"/a//../b", b"/a/b"),
        (b"/../../../a", b"/a"),
        (b"/a/../../b", b"/b"),
        (b"/...", b"/..."),
        (b"/.a/..b/c..", b"/.a/..b/c.."),
        (b"/%2e%2E/a", b"/a"),
        (b"/a%2f..%2fb", b"/b"),
        (b"/%252e%252e/", b"/%2e%2e/"),
        (b"/%20%ff%C3%A4", b"/ \xff\xc3\xa4"),
        (b"/a\\..\\b", b"/a\\..\\b"),
        (b"/a;x/../b", b"/b"),
    ],
)
def test_normalised(raw: bytes, expected: bytes) -> None:
    assert _coretest.normalise_path(raw) == expected


@pytest.mark.parametrize(
    "raw", [b"", b"a", b"*", b"%2fa", b"/%", b"/%0", b"/%0g", b"/%u0041", b"/%00", b"/%1f", b"/%7F"]
)
def test_not_normalised(raw: bytes) -> None:
    assert _coretest.normalise_path(raw) == "URL"


@pytest.mark.parametrize(
    "host",
    [b"a", b"a:", b"a:1", b"a:65535", b"1.2.3.4", b"[::]", b"[1::]:9", b"[vF.x:y]", b"%41", b"*"],
)
def test_valid_host(host: bytes) -> None:
    assert _coretest.check_host(host)


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b":",
        b"a:b",
        b"a:1:2",
        b"a:65536",
        b"[",
        b"]",
        b"[]",
        b"[::]]",
        b"[::",
        b"::",
        b"[::1]x",
        b"[::1\x00]",
        b"[1.2.3.4]",
        b"[%3a%3a]",
        b"a@b",
        b"a/b",
        b"a b",
        b"%4",
        b"%",
        b"a\x00",
        b"[v.a]",
    ],
)
def test_invalid_host(host: bytes) -> None:
    assert not _coretest.check_host(host)
