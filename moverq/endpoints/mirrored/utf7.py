"""Modified UTF-7 (RFC 3501 §5.1.3): how IMAP servers and Maildir++ spell folder names."""

from binascii import a2b_base64, b2a_base64


def to_utf7(name: str) -> bytes:
    """A mailbox name in modified UTF-7 (RFC 3501 §5.1.3)."""
    done = bytearray()
    held = ""

    def flush() -> None:
        nonlocal held
        if held:
            base64 = _base64(held.encode("utf-16-be", "surrogatepass"))
            done.extend(b"&" + base64 + b"-")
            held = ""

    for ch in name:
        if " " <= ch <= "~":
            flush()
            done.extend(b"&-" if ch == "&" else ch.encode())
        else:
            held += ch
    flush()
    return bytes(done)


def from_utf7(name: bytes) -> str:
    """The name that modified UTF-7 says. What is no modified UTF-7 is taken as UTF-8, else as Latin-1: some servers
    keep names that no encoding made."""
    try:
        return _decoded(name)
    except (ValueError, UnicodeError):
        try:
            return name.decode("utf-8")
        except UnicodeError:
            return name.decode("latin-1")


def _decoded(name: bytes) -> str:
    done: list[str] = []
    at = 0
    while (amp := name.find(b"&", at)) >= 0:
        done.append(name[at:amp].decode("utf-8"))
        end = name.index(b"-", amp)
        shifted = name[amp + 1 : end]
        done.append(_unbase64(shifted).decode("utf-16-be") if shifted else "&")
        at = end + 1
    done.append(name[at:].decode("utf-8"))
    return "".join(done)


def _base64(data: bytes) -> bytes:
    return b2a_base64(data, newline=False).rstrip(b"=").replace(b"/", b",")


def _unbase64(text: bytes) -> bytes:
    return a2b_base64(text.replace(b",", b"/") + b"=" * (-len(text) % 4))
