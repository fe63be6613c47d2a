"""CRC-32C (Castagnoli), the checksum in TensorFlow's files: of hundreds of megabytes, in numpy.

A register of 32 bits is divided by a polynomial, byte after byte, which no numpy function does. But division is linear:
the text is cut in lanes of equal length, all lanes are divided side by side, and neighbours are joined by moving the
first register on by as many zeros as the second lane is long. (Polynomial and bit order: RFC 3720, appendix B.4.)
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

POLYNOMIAL = 0x82F63B78  # bits reversed
LANES = 4096  # a power of two; their registers stay in the cache
WORD = 4  # bytes divided in one step
COLUMNS = 64  # words of each lane that are laid side by side at a time: reading across lanes is slow

Words = NDArray[np.uint32]


def crc32c(data: bytes | NDArray[np.uint8]) -> int:
    """The checksum of some bytes."""
    text = np.frombuffer(data, np.uint8)
    cut = len(text) % (LANES * WORD)
    register, table = 0xFFFFFFFF, tables()[0].tolist()
    for byte in text[:cut].tolist():
        register = table[(register ^ byte) & 0xFF] ^ (register >> 8)
    if len(text) > cut:
        [moved] = apply(zeros(len(text) - cut), np.array([register], np.uint32))
        register = int(moved) ^ divide(text[cut:])
    return register ^ 0xFFFFFFFF


def divide(text: NDArray[np.uint8]) -> int:
    """The register after some bytes, from 0 on. Their number must be a multiple of LANES * WORD."""
    low, high = half_tables()
    lanes = text.view("<u4").reshape(LANES, -1)
    registers = np.zeros(LANES, np.uint32)
    for start in range(0, lanes.shape[1], COLUMNS):
        for column in np.ascontiguousarray(lanes[:, start : start + COLUMNS].T):
            registers ^= column
            registers = low[registers & 0xFFFF] ^ high[registers >> 16]
    move = zeros(len(text) // LANES)
    while len(registers) > 1:
        registers = apply(move, registers[0::2]) ^ registers[1::2]
        move = apply(move, move)
    return int(registers[0])


@cache
def tables() -> Words:
    """(WORD, 256): the register after one byte and 0, 1, 2 or 3 zeros behind it."""
    byte: Words = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        byte = (byte >> np.uint32(1)) ^ (byte & np.uint32(1)) * np.uint32(POLYNOMIAL)
    found = [byte]
    for _ in range(WORD - 1):
        found.append((found[-1] >> 8) ^ found[0][found[-1] & 0xFF])
    return np.stack(found)


@cache
def half_tables() -> tuple[Words, Words]:
    """Two of (65536,): the register after a word's first two bytes and two zeros, and after its last two."""
    last, third, second, first = tables()
    half = np.arange(2**16, dtype=np.uint32)
    return first[half & 0xFF] ^ second[half >> 8], third[half & 0xFF] ^ last[half >> 8]


def zeros(n_bytes: int) -> Words:
    """(32,): what n zeros make of each bit of the register. By squaring."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    result, power = bits, tables()[0][bits & 0xFF] ^ (bits >> 8)
    while n_bytes:
        if n_bytes & 1:
            result = apply(power, result)
        power = apply(power, power)
        n_bytes >>= 1
    return result


def apply(move: Words, registers: Words) -> Words:
    """Move registers on: the sum (exclusive or) of what becomes of their bits."""
    moved = np.zeros_like(registers)
    for bit in range(32):
        moved ^= np.where((registers >> bit) & 1, move[bit], np.uint32(0))
    return moved
