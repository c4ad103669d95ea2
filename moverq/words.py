"""Numbers as people read them."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 item`, `2,345 items`; `many` where that is not `one` with an s: `0 mailboxes`."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
