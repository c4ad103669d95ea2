"""Messages at the end of an mbox; blocking.

Each has a name of its own on its separator, in the place of a sender, made of its item and its intent, which is durable
before. So after a crash it is found by that, whole or not; and equal messages that we wrote are told apart.

    From moverq-<item>-<intent> Tue Nov 14 22:13:20 2023 +0000

Of a separator that was cut short itself nothing tells but where it begins: so that is **announced** before, with the
separator, in a file beside the mirror. What is there of it is cut out again (`rewriting`).
"""

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import attrs
import msgpack

from moverq.endpoints.mbox import message
from moverq.endpoints.mbox.index import Entry, Index, base_of, parted, read_index, stamp_of
from moverq.endpoints.mbox.locks import locked
from moverq.endpoints.mbox.message import Base, as_mail, as_stored, taken_apart, with_said
from moverq.endpoints.mbox.splitting import LINE_BYTES_MAX
from moverq.flow.folders import sync_folder
from moverq.model.ids import ItemId


class Message(NamedTuple):
    """A message to append."""

    item_id: ItemId
    token: bytes
    received_ms: int
    text: bytes
    """Without the programs' fields, as it will stand in the file."""
    flags: int
    keywords: tuple[str, ...]


def token_for(item_id: ItemId, intent: int) -> bytes:
    """Of both in full, for ids may be alike at any end."""
    return b"moverq-%s-%x" % (item_id.hex().encode(), intent)


def stored(
    item_id: ItemId, intent: int, content: bytes, *, received_ms: int, flags: int, words: Sequence[str]
) -> Message:
    """A message that came."""
    return Message(item_id, token_for(item_id, intent), received_ms, as_stored(content), flags, tuple(words))


def append(
    path: bytes, messages: Sequence[Message], *, announcement: bytes, validity: int, known: Index | None
) -> tuple[Index, list[bytes]]:
    """What the file holds now, and the base of each message. Durable. Raises `OSError`; then nothing is there.

    The keywords are the folder's already, or the file is empty: then its first message says them, and `validity`,
    unless that is 0.
    """
    with locked(path) as descriptor:
        index = known if known is not None and known.is_whole and known.stamp == stamp_of(path) else None
        if index is None:
            index = read_index(path, known=known, is_ours=True)
        equal = Counter(base.partition(b".")[0] for base in index.entries)
        entries, folder = dict(index.entries), index.base
        begin = at = index.stamp.size
        bases: list[bytes] = []
        data = bytearray()
        if at and os.pread(descriptor, 1, at - 1) != b"\n":
            data += b"\n"
        last = next(reversed(entries), None)
        if last is not None and entries[last].end == at:
            begun = os.pread(descriptor, LINE_BYTES_MAX + 1, entries[last].begin)
            if not parted(begun)[1]:
                data += b"\n"  # a delivery was cut short: behind its separator alone, ours would be text
            entries[last] = entries[last]._replace(end=at + len(data))
        lead = len(data)
        for one in messages:
            base: Base | None = None
            if validity and not at and not data:
                every = {word.lower(): word for given in messages for word in given.keywords}
                base = folder = Base(validity, 0, tuple(sorted(every.values())))
            separator = message.separator_for(one.token, one.received_ms)
            text = with_said(one.text, flags=one.flags, keywords=one.keywords, base=base)
            mail = as_mail(taken_apart(text)[1])
            same = base_of(separator, mail)
            bases.append(b"%s.%d" % (same, equal[same]))
            equal[same] += 1
            start = at + len(data)
            data += separator + text
            received_ms = message.separator_ms(separator) or 0
            entries[bases[-1]] = Entry(
                start, at + len(data), received_ms, len(mail), one.flags, one.keywords, 0, one.token
            )
        head_end = data.find(b"\n", lead) + 1
        _announce(announcement, Announced(begin, bytes(data[:head_end])))
        try:
            view = memoryview(data)
            while view:
                written = os.pwrite(descriptor, view, at)
                view, at = view[written:], at + written
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, begin)
            raise
        stamp = stamp_of(descriptor)
        return attrs.evolve(index, entries=entries, base=folder, stamp=stamp, is_settled=False), bases


# ---- announced


class Announced(NamedTuple):
    """An append: where it begins, and the first bytes that go there."""

    begin: int
    head: bytes


def _announce(path: bytes, announced: Announced) -> None:
    with open(path + b".tmp", "wb") as file:
        file.write(msgpack.packb(announced))
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + b".tmp", path)
    sync_folder(os.path.dirname(path))


def decode_announced(data: bytes) -> Announced | None:
    """None: it says nothing."""
    try:
        begin, head = msgpack.unpackb(data)
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    return Announced(begin, head) if type(begin) is int and begin >= 0 and isinstance(head, bytes) else None


def announced(path: bytes) -> Announced | None:
    """What was announced last; None: nothing, or nobody was to be told. Raises `OSError`."""
    try:
        with open(path, "rb") as file:
            return decode_announced(file.read())
    except FileNotFoundError:
        return None


def withdraw(path: bytes) -> None:
    """What was announced is there, or cut out again."""
    with suppress(FileNotFoundError):
        os.unlink(path)
