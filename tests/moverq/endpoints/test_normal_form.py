"""What is clean, what of it is the normal form, and that both are the same however long the message is."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moverq.endpoints.mirrored import normal_form
from moverq.endpoints.mirrored.normal_form import as_sent, is_clean, normal, normal_hash

mail = st.lists(st.sampled_from([b"\r\n", b"a line\r\n", b"x" * 61, b"\r", b"\n", b"\0", b"\xe9"])).map(b"".join)


def is_clean_by_definition(content: bytes) -> bool:
    return re.search(rb"(?<!\r)\n|\r(?!\n)|\0", content) is None


@given(content=mail)
@example(content=b"")
@example(content=b"\r")
@example(content=b"\n")
@example(content=b"\n\r")
@example(content=b"\r\r\n")
@example(content=b"\r\n\n")
def test_clean_is_what_has_only_crlf_and_no_nul(content: bytes) -> None:
    assert is_clean(content) == is_clean_by_definition(content)
    if is_clean(content):  # it comes back from a file with other line ends
        assert as_sent(content.replace(b"\r\n", b"\n")) == content


@given(content=mail, piece_bytes=st.integers(1, 70))
def test_a_line_end_on_the_border_of_two_pieces_is_seen_whole(content: bytes, piece_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normal_form, "_PIECE_BYTES", piece_bytes)
        assert is_clean(content) == is_clean_by_definition(content)


@pytest.mark.parametrize("odd", [b"\r", b"\n", b"\n\r", b"\0"])
@pytest.mark.parametrize("at", [0, 1, 62, 63, 64, 65, 300_000, -1])
def test_one_odd_byte_in_a_large_message_is_found_wherever_it_is(odd: bytes, at: int) -> None:
    content = b"sixty bytes and one CRLF, again and again until it is large\r\n" * 10_000
    at %= len(content)
    assert is_clean(content)
    assert not is_clean(content[:at] + odd + b"x" + content[at:])


@given(content=mail)
def test_a_normal_form_is_clean_and_its_own_and_that_of_what_is_sent(content: bytes) -> None:
    form = normal(content)
    assert is_clean(form)
    assert normal(form) == form == normal(as_sent(content))
    assert normal_hash(form) is None
