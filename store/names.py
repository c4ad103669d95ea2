"""What may stand in a mailbox: names, texts, flags, keywords, settings; checked once, where they come in.

Names are one level of any Unicode but NUL; flags are 32 bits; keywords are sorted, each once; settings are typed JSON.
What passes here can be packed, logged and compared, so nothing behind it fails on what a client sent. Values and pure
functions.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import attrs

from store.errors import Refused
from store.ids import ItemId
from store.limits import (
    CONTENT_BYTES_MAX,
    FOLDER_NAME_BYTES_MAX,
    KEYWORD_BYTES_MAX,
    KEYWORDS_MAX,
    SETTING_BYTES_MAX,
)

INBOX = "INBOX"
ITEM_CLASS = "IPM.Note"
"""What an item is unless it says otherwise: a message."""
RECOVERABLE_ITEMS = "Recoverable Items"
DELETED_MS = "moverq.deleted_ms"
"""The property that says when a recoverable item was deleted."""
DELETED_FROM = "moverq.deleted_from"
"""The property that says which folder it was in."""
QUOTA_BYTES = "quota_bytes"
LABEL = "label"
"""The setting that a soft-deleted mailbox is to be found by: a JSON text of whoever soft-deletes it, and no client."""
SETTINGS: Mapping[str, Callable[[object], bool]] = {
    QUOTA_BYTES: lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
    "rules": lambda value: isinstance(value, list) and all(isinstance(rule, dict) for rule in value),
    "acl": lambda value: isinstance(value, dict) and all(isinstance(rights, str) for rights in value.values()),
    "out_of_office": lambda value: isinstance(value, dict),
    "retention_days": lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
}
"""The typed settings. A name that starts with "x-" may hold any JSON."""


@attrs.frozen(kw_only=True)
class NewItem:
    """An item to be added, whole."""

    content: bytes
    received_ms: int
    flags: int = 0
    keywords: Iterable[str] = ()
    item_class: str = ITEM_CLASS
    properties: Mapping[str, str] = attrs.Factory(dict)


class Added(NamedTuple):
    """Where an item went. `duplicate`: the delivery key was accepted before, and nothing was added."""

    item_id: ItemId | None
    uid: int
    modseq: int
    duplicate: bool = False


def flat(properties: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Properties in the one order that digests see."""
    return tuple(sorted(properties.items()))


def clean_keywords(keywords: Iterable[str]) -> tuple[str, ...]:
    """Sorted, each once. Raises `Refused` for what is no keyword."""
    clean = tuple(sorted(set(keywords)))
    if len(clean) > KEYWORDS_MAX or any(not word or len(_utf8(word)) > KEYWORD_BYTES_MAX for word in clean):
        raise Refused(why=f"keywords are at most {KEYWORDS_MAX}, each of 1 to {KEYWORD_BYTES_MAX} bytes")
    return clean


def check_name(name: str) -> None:
    """A folder's name is one level: any Unicode but NUL, and not empty."""
    if not name or "\0" in name or len(_utf8(name)) > FOLDER_NAME_BYTES_MAX:
        raise Refused(why=f"a folder name has 1 to {FOLDER_NAME_BYTES_MAX} bytes and no NUL: {name[:60]!r}")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Refused(why=f"{text[:60]!r} is not valid Unicode") from None


def check_texts(*texts: str) -> None:
    for text in texts:
        _utf8(text)


def check_flags(flags: int) -> int:
    """Flags are 32 bits. Raises `Refused`."""
    if not 0 <= flags < 1 << 32:
        raise Refused(why=f"flags are a number from 0 to 2^32 - 1, not {flags}")
    return flags


def check_item(item: NewItem) -> None:
    """All that the records and the content's frame have room for."""
    check_flags(item.flags)
    check_message(item.content, item.received_ms)
    check_texts(item.item_class, *item.properties.keys(), *item.properties.values())


def check_message(content: bytes, received_ms: int) -> None:
    if not -(1 << 63) <= received_ms < 1 << 63:
        raise Refused(why=f"{received_ms} is not a date")
    if len(content) > CONTENT_BYTES_MAX:
        raise Refused(why=f"an item of {len(content):,} bytes is larger than {CONTENT_BYTES_MAX:,}")


def check_setting(name: str, value: object) -> str:
    """The setting's JSON text. Raises `Refused`."""
    check_texts(name)
    check = SETTINGS.get(name, (lambda _: True) if name.startswith("x-") else None)
    if check is None:
        known = ", ".join(SETTINGS)
        raise Refused(why=f"there is no setting {name!r}: there are {known}, and your own starting with x-")
    if not check(value):
        raise Refused(why=f"{value!r} is not a value for setting {name}")
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    if len(_utf8(text)) > SETTING_BYTES_MAX:
        raise Refused(why=f"setting {name} is larger than {SETTING_BYTES_MAX:,} bytes")
    return text


def uidvalidity(created_ms: int, modseq: int) -> int:
    """Of a folder made at `modseq` in a mailbox made at `created_ms`.

    Rising, and unique among all folders the mailbox ever had: a name used again gets a new one (RFC 9051 §2.3.1).
    """
    return (created_ms // 1000 + modseq) % (1 << 32) or 1
