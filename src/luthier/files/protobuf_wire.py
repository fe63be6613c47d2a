"""Protocol buffers wire format (protobuf.dev/programming-guides/encoding): bounded reading, and writing.

Two file formats use it: SentencePiece's models and TensorFlow's checkpoints. Both need few fields of few messages, for
which the protobuf package would be a dependency with generated code. Messages are untrusted: every length is checked.
A fixed-width field (wire types 1 and 5) is returned as bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

Field = int | bytes

VARINT, BYTES = 0, 2


class WireReader:
    """Reads varints and fields from bytes, from offset `at` on. Raises ValueError for truncated or invalid bytes."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def take(self, size: int) -> bytes:
        """Read the next bytes."""
        if size > len(self.content) - self.at:
            raise ValueError(f"it ends too early, at byte {len(self.content)}")
        self.at += size
        return self.content[self.at - size : self.at]

    def varint(self) -> int:
        """Read an integer of up to 64 bits, 7 bits per byte, the lowest first."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF
        raise ValueError(f"a number has more than 64 bits, at byte {self.at}")

    def fields(self) -> Iterator[tuple[int, Field]]:
        """Read the fields of a message: (field number, value)."""
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
    """The fields of a message: (field number, value). Raises ValueError for an invalid message."""
    return WireReader(message).fields()


def field(number: int, value: Field) -> bytes:
    """Encode a field: an integer, or bytes."""
    if isinstance(value, int):
        return varint(number << 3 | VARINT) + varint(value)
    return varint(number << 3 | BYTES) + varint(len(value)) + value


def varint(value: int) -> bytes:
    """Encode an integer, 7 bits per byte; a negative one as 64-bit two's complement."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
