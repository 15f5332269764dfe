"""Files of netCDF 3: how long a whole one is, from its header. Source: NetCDF Classic Format Specification (Unidata)."""

import struct
from os import SEEK_CUR
from typing import BinaryIO

DIMENSION, VARIABLE, ATTRIBUTE = 10, 11, 12  # tags of lists
BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8}  # of a value by its type: byte, char, short, int, float, double


def whole_length(file: BinaryIO) -> int:
    """Bytes of the file that a header promises, padding included; ``ValueError`` where it is none, or is cut off itself."""

    def number(form: str = ">i") -> int:
        size = struct.calcsize(form)
        read = file.read(size)
        if len(read) < size:
            raise ValueError("its header is cut off")
        return int(struct.unpack(form, read)[0])

    def skip(n: int) -> None:  # beyond the end too: whatever follows is then cut off
        file.seek(_padded(n), SEEK_CUR)

    def listed(tag: int) -> int:
        found, n = number(), number()
        if found not in (tag, 0) or n < 0 or (n and not found):
            raise ValueError("its header is not that of netCDF 3")
        return n

    def skip_attributes() -> None:
        for _ in range(listed(ATTRIBUTE)):
            skip(number())
            kind = number()
            if kind not in BYTES:
                raise ValueError("its header is not that of netCDF 3")
            skip(BYTES[kind] * number())

    magic = file.read(4)
    if magic not in (b"CDF\x01", b"CDF\x02"):
        raise ValueError("it does not begin as netCDF 3 does")
    if number():
        raise ValueError("it has records, and no cube has")
    lengths = []
    for _ in range(listed(DIMENSION)):
        skip(number())
        lengths.append(number())
    skip_attributes()
    end = 0
    for _ in range(listed(VARIABLE)):
        skip(number())
        size = 1
        for _ in range(number()):
            size *= lengths[number()]
        skip_attributes()
        kind = number()
        number()  # its size as far as 32 bits hold it
        begin = number(">i" if magic[3] == 1 else ">q")
        end = max(end, begin + _padded(BYTES[kind] * size))
    return max(end, file.tell())


def _padded(n: int) -> int:
    if n < 0:
        raise ValueError("its header is not that of netCDF 3")
    return -(-n // 4) * 4
