"""What others look up in the directory is never of another moment than the register: a real Dovecot proxy and a real
Postfix, with the maps that the how-to page gives, before and after real moves on a real slapd."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from moverq.root import Root, init_root, open_root
from tests.support.dovecot_proxy import backend_of, real_dovecot
from tests.support.postfix import free_port
from tests.support.servers import required
from tests.support.slapd import SUFFIX, Slapd, real_slapd
from tests.test_docs import LDAP, blocks

ADA, ALIAS = "ada@example.org", "lovelace@example.org"
ONE, TWO = "127.0.0.2", "127.0.0.3"

pytestmark = pytest.mark.slow


@pytest.fixture
def slapd(public: Path) -> Iterator[Slapd]:
    with real_slapd(public / "slapd") as running:
        yield running


async def organisation(root: Root) -> None:
    for name, server in (("DB1", ONE), ("DB2", TWO)):
        await root.server_add(server, version="2010")
        await root.database_add(name, server=server)
    await root.mailbox_add(ADA, database="DB1")
    await root.alias_add(ADA, ALIAS)
    await root.deliver(ADA, b"Subject: hello\r\n\r\nhow are you?\r\n")


def page_block(language: str, slapd: Slapd) -> str:
    (block,) = blocks(LDAP, language)
    assert "ldap://ldap1.example.org" in block
    assert SUFFIX in block
    return block.replace("ldap://ldap1.example.org", slapd.uri)


async def opened_root(path: Path, slapd: Slapd) -> Path:
    (path / "ldap.toml").write_text(slapd.toml())
    await init_root(path / "root", directory_settings=path / "ldap.toml")
    return path / "root"


async def test_a_login_at_a_dovecot_proxy_reaches_the_home_of_now(tmp_path: Path, public: Path, slapd: Slapd) -> None:
    required("dovecot with LDAP")
    port, proxy_port = free_port(), free_port()
    settings = page_block("dovecot-ldap", slapd).replace("=proxy=y", f"=proxy=y, =port={port}")
    with (
        real_dovecot(public / "one", address=ONE, port=port),
        real_dovecot(public / "two", address=TWO, port=port),
        real_dovecot(public / "proxy", address="127.0.0.1", port=proxy_port, ldap=settings),
    ):
        async with open_root(await opened_root(tmp_path, slapd)) as root:
            await organisation(root)
            assert await login(ADA, proxy_port) == ONE
            request = await root.move(ADA, to="DB2")
            assert (await root.wait(request)).status == "Completed"
            assert await login(ADA, proxy_port) == TWO
            assert await login(ALIAS, proxy_port) == TWO
            assert (await root.wait(await root.rollback(request))).status == "Completed"
            assert await login(ADA, proxy_port) == ONE


async def login(user: str, port: int) -> str:
    with trio.fail_after(30):
        return await trio.to_thread.run_sync(backend_of, user, port)


async def test_postfix_finds_the_transport_of_the_home_of_now(tmp_path: Path, public: Path, slapd: Slapd) -> None:
    postmap = required("postmap with LDAP")
    transport = page_block("postfix-ldap", slapd)
    lines = [line for line in transport.splitlines() if "result_" not in line]
    maps = {"transport": transport, "mailboxes": "\n".join([*lines, "result_attribute = moverqAddress", ""])}
    for name, text in maps.items():
        (public / f"{name}.cf").write_text(text)
    (public / "main.cf").write_text("compatibility_level = 3.6\n")
    shutil.copy("/etc/postfix/dynamicmaps.cf", public)

    def asked(name: str, address: str) -> str:
        words = [postmap, "-c", str(public), "-q", address, f"ldap:{public}/{name}.cf"]
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()

    async with open_root(await opened_root(tmp_path, slapd)) as root:
        await organisation(root)
        assert asked("transport", ADA) == f"lmtp:inet:[{ONE}]:24"
        assert (await root.wait(await root.move(ADA, to="DB2"))).status == "Completed"
        for address in (ADA, ALIAS, "Ada@Example.org"):
            assert asked("transport", address) == f"lmtp:inet:[{TWO}]:24"
            assert asked("mailboxes", address) == ADA
        assert asked("transport", "nobody@example.org") == ""
