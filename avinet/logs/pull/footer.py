"""How many rows a Parquet file says to have: as much of its footer as that takes, and nothing that is in it. Pure.

The footer is a `FileMetaData` of parquet.thrift in Thrift's compact protocol: field 1 is a version, field 2 the schema,
field 3 the number of rows. The file ends with the footer's length (4 bytes) and the letters PAR1.
"""

from __future__ import annotations

from avinet.errors import Invalid

MAGIC = b"PAR1"
TAIL_BYTES = 8
HEAD_BYTES = 256 * 1024
"""So much of a footer is looked at: what comes before the number of rows is a name and some numbers for each column."""
_ROWS = 3
_I64, _BINARY, _LIST, _SET, _STRUCT = 6, 8, 9, 10, 12
_DEEPEST = 16
_LONGEST_VARINT = 10


def footer_bytes(tail: bytes, size: int) -> int:
    """The length of the footer of a file of `size` bytes that ends with `tail`. Raises `Invalid` for what is none."""
    length = int.from_bytes(tail[:4], "little")
    if len(tail) != TAIL_BYTES or tail[4:] != MAGIC or not 0 < length <= size - TAIL_BYTES - len(MAGIC):
        raise Invalid("it is no Parquet file")
    return length


def rows(footer: bytes) -> int:
    """The number of rows, by the beginning of a footer. Raises `Invalid`."""
    reader = _Reader(footer)
    try:
        return reader.rows()
    except IndexError as error:
        raise Invalid("the footer of the Parquet file is not whole") from error


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def rows(self) -> int:
        field = 0
        while True:
            field, kind = self._field(field)
            if not kind:
                raise Invalid("the footer of the Parquet file has no number of rows")
            if field == _ROWS and kind == _I64:
                return self._signed()
            self._skip(kind, 0)

    def _field(self, before: int) -> tuple[int, int]:
        """The next field: its number, and its kind; 0: there are no more."""
        byte = self._byte()
        kind, delta = byte & 15, byte >> 4
        return (before + delta if delta or not kind else self._signed()), kind

    def _skip(self, kind: int, depth: int) -> None:
        if depth > _DEEPEST:
            raise Invalid("the footer of the Parquet file is too deep")
        if kind in (1, 2):
            return
        if kind == 3:
            self._go(1)
        elif kind in (4, 5, _I64):
            self._varint()
        elif kind == 7:
            self._go(8)
        elif kind == _BINARY:
            self._go(self._varint())
        elif kind in (_LIST, _SET):
            byte = self._byte()
            count = byte >> 4
            self._skip_all(byte & 15, self._varint() if count == 15 else count, depth)
        elif kind == _STRUCT:
            field = 0
            while True:
                field, inner = self._field(field)
                if not inner:
                    return
                self._skip(inner, depth + 1)
        else:  # maps among them, of which there is none before the number of rows
            raise Invalid("the footer of the Parquet file is none")

    def _skip_all(self, kind: int, count: int, depth: int) -> None:
        for _ in range(count):
            self._skip(3 if kind in (1, 2) else kind, depth + 1)  # a truth takes a byte in a list

    def _signed(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value = 0
        for place in range(_LONGEST_VARINT):
            byte = self._byte()
            value |= (byte & 127) << (7 * place)
            if byte < 128:
                return value
        raise Invalid("the footer of the Parquet file has a number without end")

    def _byte(self) -> int:
        byte = self._data[self._at]
        self._at += 1
        return byte

    def _go(self, count: int) -> None:
        if count > len(self._data) - self._at:
            raise IndexError
        self._at += count
