"""Sound LZW streams pass; those that would lead the decoder astray do not."""

import itertools

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetcli.image.lzw import CLEAR, END, WIDEST, check_lzw


def packed(codes, *, is_old=False):
    """Write codes with the widths that a decoder expects, as a string of bits."""
    bits, width, size, is_first = "", 9, 258, False
    for code in codes:
        text = f"{code % 2**width:0{width}b}"
        bits += text[::-1] if is_old else text
        if code == CLEAR:
            width, size, is_first = 9, 258, True
        elif is_first:
            is_first = False
        else:
            size += 1
            width = min(WIDEST, max(width, (size if is_old else size + 1).bit_length()))
    bits += "0" * (-len(bits) % 8)
    step = -1 if is_old else 1
    return bytes(int(bits[i : i + 8][::step], 2) for i in range(0, len(bits), 8))


def is_sound(codes):
    """Tell it from the codes themselves."""
    after_clear = [b for a, b in itertools.pairwise(codes) if a == CLEAR]
    return all(code <= END for code in after_clear)


@given(st.binary(min_size=1, max_size=3000))
def test_what_an_encoder_writes_is_sound(data):
    check_lzw(imagecodecs.lzw_encode(data), is_reversed=False)
    check_lzw(imagecodecs.bitorder_encode(imagecodecs.lzw_encode(data)), is_reversed=True)


def test_long_streams_are_sound():
    for top in (2, 40, 256):
        data = np.random.default_rng(top).integers(0, top, 300_000).astype("u1").tobytes()
        stream = imagecodecs.lzw_encode(data)
        check_lzw(stream, is_reversed=False)
        assert imagecodecs.lzw_decode(stream, out=len(data)) == data


@given(
    st.lists(st.sampled_from([CLEAR, CLEAR, 65, 66, 258, 300, 500]), max_size=700),
    st.integers(0, 600),
    st.booleans(),
)
def test_a_string_after_clear_is_found_wherever_it_is(codes, n_before, is_old):
    whole = [CLEAR, *[65] * n_before, *codes, END]
    stream = packed(whole, is_old=is_old)
    if is_sound(whole):
        check_lzw(stream, is_reversed=False)
        return
    with pytest.raises(ValueError, match="damaged LZW stream"):
        check_lzw(stream, is_reversed=False)


def test_sound_streams_write_nothing_beyond_their_room():
    rng = np.random.default_rng(0)
    stream = imagecodecs.lzw_encode(rng.integers(0, 20, 5000).astype("u1").tobytes())
    for _ in range(2000):
        data = bytearray(stream)
        for at in rng.integers(2, len(data), 4):
            data[at] = rng.integers(256)
        room = np.full(9000, 7, "u1")
        try:
            check_lzw(bytes(data), is_reversed=False)
            imagecodecs.lzw_decode(bytes(data), out=room[2000:7000])
        except (ValueError, RuntimeError):
            pass
        assert (room[:2000] == 7).all()
        assert (room[7000:] == 7).all()
