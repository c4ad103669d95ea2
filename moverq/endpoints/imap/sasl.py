"""What a login says, by mechanism: the first word, and an answer to each challenge. Pure but for SCRAM's nonce.

PLAIN                 authorization identity, name and password, once
XOAUTH2, OAUTHBEARER  a token; an error comes as a challenge, which one more word closes
SCRAM-SHA-1, -256     by the library `scramp`: the password is never sent, and the server proves that it knows it
"""

from typing import Any, Final, Protocol

import attrs

from moverq.errors import EndpointBroken, RequestRefused

AUTHS: Final = ("plain", "login", "xoauth2", "oauthbearer", "scram-sha-1", "scram-sha-256")
"""What `auth=` can be. `login` is no mechanism but a command of IMAP's own."""


class Dialogue(Protocol):
    """One login by one mechanism."""

    def first(self) -> bytes:
        """Asked for once."""
        ...

    def answer(self, challenge: bytes) -> bytes:
        """Raises `EndpointBroken` where the server is not who it should be."""
        ...

    def check_over(self) -> None:
        """The server said OK: may it have? Raises `EndpointBroken`."""
        ...


def dialogue(auth: str, *, name: str, acts_for: str, secret: str, endpoint: str) -> Dialogue:
    """`name` logs in, for `acts_for` if that is not empty.

    Raises:
        RequestRefused: the mechanism cannot say that, or its library is not installed.
    """
    if auth == "plain":
        return _OneWord(b"\0".join(part.encode() for part in (acts_for, name, secret)), b"")
    if auth == "xoauth2":
        return _OneWord(f"user={acts_for or name}\x01auth=Bearer {secret}\x01\x01".encode(), b"")
    if auth == "oauthbearer":
        return _OneWord(f"n,a={_escaped(acts_for or name)},\x01auth=Bearer {secret}\x01\x01".encode(), b"\x01")
    if acts_for:
        raise RequestRefused(
            why=f"auth={auth} logs in nobody but whom it names; say login-as= beside it, or auth=plain"
        )
    try:
        import scramp  # type: ignore[import-untyped]
    except ImportError as error:
        raise RequestRefused(why=f"auth={auth} needs the package scramp: pip install moverq[scram]") from error
    return _Scram(scramp.ScramClient([auth.upper()], name, secret), endpoint)


def _escaped(name: str) -> str:
    return name.replace("=", "=3D").replace(",", "=2C")


@attrs.frozen
class _OneWord:
    word: bytes
    last: bytes
    """After an error that came as a challenge: the server then says NO."""

    def first(self) -> bytes:
        return self.word

    def answer(self, challenge: bytes) -> bytes:
        return self.last

    def check_over(self) -> None:
        """Nothing is proved."""


@attrs.define
class _Scram:
    client: Any
    endpoint: str
    _challenges: int = 0

    def first(self) -> bytes:
        said: str = self.client.get_client_first()
        return said.encode()

    def answer(self, challenge: bytes) -> bytes:
        import scramp

        self._challenges += 1
        try:
            if self._challenges == 1:
                self.client.set_server_first(challenge.decode())
                said: str = self.client.get_client_final()
                return said.encode()
            if self._challenges == 2:
                self.client.set_server_final(challenge.decode())
                return b""
        except (scramp.ScramException, UnicodeError) as error:
            raise EndpointBroken(endpoint=self.endpoint, why=f"its side of the login is wrong: {error}") from None
        raise EndpointBroken(endpoint=self.endpoint, why="it goes on asking after a whole login")

    def check_over(self) -> None:
        if self._challenges < 2:
            raise EndpointBroken(endpoint=self.endpoint, why="it did not prove that it knows the password")
