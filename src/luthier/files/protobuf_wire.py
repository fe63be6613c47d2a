"""The wire format of protocol buffers (protobuf.dev/programming-guides/encoding), read with bounds, and written.

Two file formats use it: SentencePiece's models and TensorFlow's checkpoints. Both need few fields of few messages, for
which the protobuf package would be a dependency with generated code. Messages come from outside: every length is
checked. A field of fixed width (wire types 1 and 5) is its bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

Field = int | bytes

VARINT, BYTES = 0, 2


class WireReader:
    """Reads numbers and fields from bytes, from `at` on. ValueError where they end too early or are no such thing."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def take(self, size: int) -> bytes:
        """The next bytes."""
        if size > len(self.content) - self.at:
            raise ValueError(f"it ends too early, at byte {len(self.content)}")
        self.at += size
        return self.content[self.at - size : self.at]

    def varint(self) -> int:
        """A whole number of up to 64 bits, 7 in each byte, the lowest first."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF
        raise ValueError(f"a number has more than 64 bits, at byte {self.at}")

    def fields(self) -> Iterator[tuple[int, Field]]:
        """The fields of a message: (number, value)."""
        while self.at < len(self.content):
            tag = self.varint()
            match tag & 7:
                case 0:
                    yield tag >> 3, self.varint()
                case 1:
                    yield tag >> 3, self.take(8)
                case 2:
                    yield tag >> 3, self.take(self.varint())
                case 5:
                    yield tag >> 3, self.take(4)
                case kind:
                    raise ValueError(f"a field of the unknown wire type {kind}, at byte {self.at}")


def fields(message: bytes) -> Iterator[tuple[int, Field]]:
    """The fields of a message: (number, value). Raises ValueError for what is none."""
    return WireReader(message).fields()


def field(number: int, value: Field) -> bytes:
    """A field to be written: a whole number, or bytes."""
    if isinstance(value, int):
        return varint(number << 3 | VARINT) + varint(value)
    return varint(number << 3 | BYTES) + varint(len(value)) + value


def varint(value: int) -> bytes:
    """A whole number to be written, 7 bits in each byte; a negative one takes 64 bits, as in two's complement."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
