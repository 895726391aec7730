"""What bytes are that are no UTF-8 text: told by their first bytes, or by what they decode as.

A file of rows is UTF-8, with or without a byte order mark. Everything else is refused with its name and the command
that helps; nothing is read with replacement characters.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from vlm.common.errors import DataError

LOOK = 1 << 16
"""Bytes in which an encoding is looked for."""
_SHOWN = 20
"""Characters of decoded text that a message shows, for people to see whether it is their language."""
_HIGH = re.compile(rb"[\x80-\xff]+")
_ASCII = re.compile(r"[\x00-\x7f]+")
_MARKS = (  # UTF-32's mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "UTF-32 (by its byte order mark)", "utf-32"),
    (codecs.BOM_UTF32_BE, "UTF-32 (by its byte order mark)", "utf-32"),
    (codecs.BOM_UTF16_LE, "UTF-16 (by its byte order mark)", "utf-16"),
    (codecs.BOM_UTF16_BE, "UTF-16 (by its byte order mark)", "utf-16"),
)
_MAGIC = (
    (b"\x1f\x8b", "a gzip archive", "unpack it first: gunzip -k {path}"),
    (b"PK\x03\x04", "a zip archive", "unpack it first: unzip {path}"),
    (b"BZh", "a bzip2 archive", "unpack it first: bunzip2 -k {path}"),
    (b"\xfd7zXZ\x00", "an xz archive", "unpack it first: unxz -k {path}"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", "unpack it first: unzstd {path}"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first: 7z x {path}"),
    (b"Rar!", "a rar archive", "unpack it first: unrar x {path}"),
    (b"\x89PNG", "a PNG picture", "name the file of rows instead"),
    (b"\xff\xd8\xff", "a JPEG picture", "name the file of rows instead"),
    (b"II*\x00", "a TIFF picture", "name the file of rows instead"),
    (b"MM\x00*", "a TIFF picture", "name the file of rows instead"),
    (b"\x89HDF", "an HDF5 file", "write its rows as JSONL (docs/rows.md)"),
    (b"SQLite format 3", "an SQLite database", "write its rows as JSONL (docs/rows.md)"),
    (b"ARROW1", "an Arrow file", "name the folder that `datasets` saved, or write its rows as parquet"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file", "fetch the file itself: git lfs pull"),
)


def refuse(path: Path, start: bytes) -> None:
    """Raises: DataError where a file's first bytes are those of an archive, a picture or UTF-16, not of UTF-8 text."""
    if (foreign := _foreign(path, start)) is not None:
        found, hint = foreign
        raise DataError(f"{path}: found {found}, expected rows as UTF-8 text or parquet; {hint}")


def undecoded(path: Path, data: bytes, error: UnicodeDecodeError) -> str:
    """What `data` is that is no UTF-8, and what to do: "bytes that are no UTF-8 but read as GBK ('机场'); write …"."""
    if (foreign := _foreign(path, data)) is not None:
        return "; ".join(foreign)
    data = data[max(0, error.start - LOOK) : error.start + LOOK]
    runs = _HIGH.findall(data)
    valid = len(_ASCII.sub("", data.decode(errors="ignore")).encode())
    damaged = f"bytes that are no UTF-8 (0x{error.object[error.start]:02x} at {error.start}: {error.reason})"
    if valid > 0.7 * sum(map(len, runs)):  # of Chinese in GBK a third or so looks like UTF-8 by accident
        return damaged
    for name, encoding in (("GBK", "gb18030"), ("Windows-1252", "cp1252")):
        # two bytes a character against one: runs of single high bytes are no Chinese
        if encoding == "gb18030" and sum(map(len, runs)) < 2 * len(runs):
            continue
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(data)
        except UnicodeDecodeError:
            continue
        shown = _ASCII.sub("", text)[:_SHOWN]
        command = f"iconv -f {'gbk' if name == 'GBK' else 'windows-1252'} -t utf-8 {path} > NEW"
        return f"bytes that are no UTF-8 but read as {name} ({shown!r}); write it as UTF-8: {command}"
    return damaged


def _foreign(path: Path, start: bytes) -> tuple[str, str] | None:
    """(what it is, what to do) by the first bytes; None for what may be text."""
    for mark, name, encoding in _MARKS:
        if start.startswith(mark):
            return name, f"write it as UTF-8: iconv -f {encoding} -t utf-8 {path} > NEW"
    for magic, name, hint in _MAGIC:
        if start.startswith(magic):
            return name, hint.format(path=path)
    if start[257:262] == b"ustar":
        return "a tar archive", f"unpack it first: tar xf {path}"
    for name, zeros in (("utf-16le", start[1:200:2]), ("utf-16be", start[:200:2])):
        if len(zeros) > 3 and zeros.count(0) > 0.6 * len(zeros):
            said = f"UTF-16 without a byte order mark ({'little' if name.endswith('le') else 'big'}-endian)"
            return said, f"write it as UTF-8: iconv -f {name} -t utf-8 {path} > NEW"
    return None
