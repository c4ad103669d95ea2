"""The LDAP directory on a real slapd: entries that the site has, what others read, and a server that goes away.

What every directory holds is in `tests/contract/test_directory.py`, which runs on it too.
"""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
import trustme

from moverq.directory import ldap_connection
from moverq.directory.directory import DatabaseEntry, Register, Server
from moverq.directory.ldap import LdapDirectory, init_ldap_directory, open_ldap_directory, register_of, register_text
from moverq.directory.ldap_settings import Attributes, LdapSettings
from moverq.endpoints.base import Home
from moverq.errors import EndpointBroken, EndpointUnavailable, RegisterChanged, RequestRefused
from moverq.model.ids import InstanceId, MailboxId
from tests.support.postfix import free_port
from tests.support.slapd import SUFFIX, WRITER, Slapd, real_slapd
from tests.support.tcp_proxy import is_ldap_write, open_proxy

ANNA, BERT = MailboxId(b"a" * 16), MailboxId(b"b" * 16)
HERE, THERE = Home("DB1", InstanceId(b"1" * 16)), Home("DB 2", InstanceId(b"2" * 16))

pytestmark = pytest.mark.slow


@pytest.fixture
def slapd(tmp_path: Path) -> Iterator[Slapd]:
    with real_slapd(tmp_path / "slapd") as running:
        yield running


@pytest.fixture
async def directory(slapd: Slapd) -> AsyncIterator[LdapDirectory]:
    settings = slapd.settings()
    await init_ldap_directory(settings, organisation="Contoso")
    async with open_ldap_directory(settings) as opened:
        await filled(opened)
        yield opened


async def filled(directory: LdapDirectory) -> None:
    for name, server in (("DB1", "mail1.example.org"), ("DB 2", "mail2.example.org")):
        await directory.add_server(Server(name=server, version="2010"))
        await directory.add_database(DatabaseEntry(name=name, server=server, path=f"/srv/{name}"))


def person(name: str, *lines: str) -> str:
    head = f"dn: uid={name},ou=people,{SUFFIX}\nchangetype: add\nobjectClass: inetOrgPerson\nuid: {name}\n"
    return head + "\n".join((f"cn: {name}", f"sn: {name}", *lines)) + "\n"


# ---- what others see


async def test_a_person_that_the_site_has_becomes_a_recipient_and_keeps_what_is_its_own(
    slapd: Slapd, directory: LdapDirectory
) -> None:
    slapd.change(person("anna", "mail: Anna@Example.org", "mail: anna.miller@example.org", "title: Captain"))
    anna = await directory.add_recipient(ANNA, "anna@example.org", HERE, quota_bytes=7)
    assert (anna.address, anna.aliases, anna.quota_bytes) == ("anna@example.org", ("anna.miller@example.org",), 7)
    assert (await directory.locate("Anna.Miller@example.org")).mailbox_id == ANNA
    found = slapd.found("(mail=anna@example.org)")
    assert "dn: uid=anna,ou=people" in found
    assert "title: Captain" in found
    assert "mail: Anna@Example.org" in found


async def test_where_nothing_can_be_seen_nobody_is_said_to_be_away(slapd: Slapd, directory: LdapDirectory) -> None:
    """By a mistake in the settings, or in the server's access rules: an MTA would send their mail back for good."""
    await directory.add_recipient(ANNA, "anna@example.org", HERE)
    async with open_ldap_directory(slapd.settings(base=f"ou=gone,{SUFFIX}")) as other:
        with pytest.raises(EndpointBroken, match=f"nothing at ou=gone,{SUFFIX}, or bind_dn may not see it"):
            await other.locate("anna@example.org")


async def test_the_host_follows_the_register_in_the_same_modify(slapd: Slapd, directory: LdapDirectory) -> None:
    await directory.add_recipient(ANNA, "anna@example.org", HERE)
    assert "mailHost: mail1.example.org" in slapd.found("(mail=anna@example.org)", "mailHost")
    await directory.relocate(ANNA, expected=Register(HERE, 1), home=THERE)
    found = slapd.found("(mail=anna@example.org)", "mailHost", "moverqRegister")
    assert "mailHost: mail2.example.org" in found
    assert f"moverqRegister: 2 {'32' * 16} DB 2" in found
    with pytest.raises(RegisterChanged):
        await directory.relocate(ANNA, expected=Register(HERE, 1), home=HERE)
    assert "mailHost: mail2.example.org" in slapd.found("(mail=anna@example.org)", "mailHost"), "all of it, or nothing"


async def test_the_attributes_may_be_the_sites_own(slapd: Slapd) -> None:
    settings = slapd.settings(attributes=Attributes(host="l", alias="mail", active_move="description"))
    await init_ldap_directory(settings, organisation="Contoso")
    async with open_ldap_directory(settings) as directory:
        await filled(directory)
        # moverq's own class still asks for its own attribute, which this site leaves at one value.
        slapd.change(person("anna", "mail: anna@example.org"))
        with pytest.raises(EndpointBroken, match="object classes"):
            await directory.add_recipient(ANNA, "anna@example.org", HERE)
    settings = slapd.settings(attributes=Attributes(host="l", alias="mail"))
    async with open_ldap_directory(settings) as directory:
        await directory.add_recipient(ANNA, "anna@example.org", HERE)
        await directory.add_alias(ANNA, "a@example.org")
        await directory.relocate(ANNA, expected=Register(HERE, 1), home=THERE)
    found = slapd.found("(mail=a@example.org)", "l", "mailHost")
    assert "l: mail2.example.org" in found
    assert "mailHost" not in found


async def test_a_server_name_that_is_no_host_name_is_refused(directory: LdapDirectory) -> None:
    with pytest.raises(RequestRefused, match="host name"):
        await directory.add_server(Server(name="Köln", version="2010"))


async def test_a_register_reads_as_it_was_written() -> None:
    for register in (Register(HERE, 1), Register(THERE, 4711)):
        assert register_of(register_text(register)) == register


# ---- addresses


async def test_of_two_who_add_one_address_at_once_never_both_have_it(slapd: Slapd, directory: LdapDirectory) -> None:
    await directory.add_recipient(ANNA, "anna@example.org", HERE)
    await directory.add_recipient(BERT, "bert@example.org", HERE)
    refused = 0
    async with open_ldap_directory(slapd.settings()) as rival:
        for number in range(10):
            alias = f"info{number}@example.org"
            failed: list[RequestRefused] = []

            async def add(who: LdapDirectory, mailbox: MailboxId, alias: str, failed: list[RequestRefused]) -> None:
                try:
                    await who.add_alias(mailbox, alias)
                except RequestRefused as error:
                    failed.append(error)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(add, directory, ANNA, alias, failed)
                nursery.start_soon(add, rival, BERT, alias, failed)
            refused += len(failed)
            owners = [one for one in (ANNA, BERT) if alias in (await rival.recipient(one)).aliases]
            assert len(owners) == 2 - len(failed) <= 1
    assert refused >= 10


async def test_an_address_that_two_entries_have_is_said_and_decided_by_nobody(
    slapd: Slapd, directory: LdapDirectory
) -> None:
    await directory.add_recipient(ANNA, "anna@example.org", HERE)
    await directory.add_recipient(BERT, "bert@example.org", HERE)
    slapd.change(
        f"dn: uid=bert@example.org,ou=people,{SUFFIX}\nchangetype: modify\nadd: mail\nmail: anna@example.org\n"
    )
    with pytest.raises(EndpointBroken, match=r"uid=anna.* and to uid=bert|uid=bert.* and to uid=anna"):
        await directory.locate("anna@example.org")


async def test_an_address_with_everything_a_filter_and_a_dn_could_trip_over_is_its_own(
    directory: LdapDirectory,
) -> None:
    odd = 'a*(b)\\,c=d+e#;<f>"g@example.org'
    await directory.add_recipient(ANNA, odd, HERE)
    await directory.add_recipient(BERT, "ab@example.org", HERE)
    assert (await directory.locate(odd)).mailbox_id == ANNA
    assert [one.address for one in await directory.recipients()] == sorted([odd, "ab@example.org"])


async def test_more_recipients_than_a_server_gives_at_once_are_listed(slapd: Slapd, directory: LdapDirectory) -> None:
    people = [person(f"u{n:04}", f"mail: u{n:04}@example.org") for n in range(1100)]
    for n, one in enumerate(people):
        people[n] = one.replace(
            "objectClass: inetOrgPerson\n",
            "objectClass: inetOrgPerson\nobjectClass: moverqRecipient\n"
            f"moverqMailbox: {n:032x}\nmoverqAddress: u{n:04}@example.org\nmoverqToken: 0\nmoverqActiveMove: none\n"
            f"moverqRegister: {register_text(Register(HERE, 1))}\n",
        )
    slapd.change("\n".join(people))
    seen: list[str] = []
    while page := await directory.recipients(after=seen[-1] if seen else "", limit=400):
        seen += [one.address for one in page]
    assert seen == [f"u{n:04}@example.org" for n in range(1100)]
    assert [one.address for one in await directory.recipients(after="u1097@example.org")] == seen[1098:]
    assert await directory.recipients(after="u1099@example.org") == []
    await directory.add_recipient(ANNA, "z@example.org", HERE)
    assert [one.address for one in await directory.recipients(after="u1099@example.org")] == ["z@example.org"]


# ---- a server that is away, silent, or refuses


async def test_a_server_that_is_away_is_waited_for_and_found_again(slapd: Slapd) -> None:
    settings = slapd.settings()
    await init_ldap_directory(settings, organisation="Contoso")
    async with (
        open_proxy(slapd.port, is_write=is_ldap_write) as proxy,
        open_ldap_directory(slapd.settings(uri=f"ldap://127.0.0.1:{proxy.port}")) as directory,
    ):
        await filled(directory)
        await directory.add_recipient(ANNA, "anna@example.org", HERE)
        proxy.cut()
        await trio.sleep(0.1)
        assert await directory.take_token(ANNA) == 1
        slapd.process.send_signal(signal.SIGSTOP)
        os.waitpid(slapd.process.pid, os.WUNTRACED)  # noqa: ASYNC222 (until it has stopped: at once)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ldap_connection, "ANSWER_S", 0.2)
                patch.setattr(ldap_connection, "CONNECT_S", 0.2)
                with pytest.raises(EndpointUnavailable, match="no answer"):
                    await directory.take_token(ANNA)
        finally:
            slapd.process.send_signal(signal.SIGCONT)
        assert await directory.take_token(ANNA) > 1
        assert proxy.connections > 2


async def test_a_server_that_is_not_there_is_said_with_its_name(slapd: Slapd) -> None:
    uri = f"ldap://127.0.0.1:{free_port()}"
    async with open_ldap_directory(slapd.settings(uri=uri)) as directory:
        with pytest.raises(EndpointUnavailable, match=f"{uri} cannot be reached: .*refused"):
            await directory.locate("anna@example.org")


async def test_a_lost_answer_of_a_write_says_that_it_may_have_happened(slapd: Slapd) -> None:
    await init_ldap_directory(slapd.settings(), organisation="Contoso")
    async with (
        open_proxy(slapd.port, is_write=is_ldap_write) as proxy,
        open_ldap_directory(slapd.settings(uri=f"ldap://127.0.0.1:{proxy.port}")) as directory,
    ):
        await filled(directory)
        await directory.add_recipient(ANNA, "anna@example.org", HERE)
        proxy.lose_answer()
        with pytest.raises(EndpointUnavailable, match="may have happened"):
            await directory.relocate(ANNA, expected=Register(HERE, 1), home=THERE)
        assert (await directory.recipient(ANNA)).register == Register(THERE, 2)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"password_file": None, "password_command": ["echo", "wrong horse"]}, "bind_dn and password"),
        ({"bind_dn": "", "password_file": None}, "may not do that|stronger"),
        ({"configuration": "ou=moverq,dc=example,dc=net"}, "unwilling"),
        ({"configuration": f"ou=moverq,ou=missing,{SUFFIX}"}, "nothing that ou=moverq,ou=missing"),
    ],
)
async def test_what_the_server_refuses_is_the_operators_and_has_no_secret_in_it(
    slapd: Slapd, changed: dict[str, object], said: str
) -> None:
    with pytest.raises(EndpointBroken, match=said) as broken:
        await init_ldap_directory(slapd.settings(**changed), organisation="Contoso")
    assert "horse" not in str(broken.value)


async def test_another_organisations_directory_is_not_taken_over(slapd: Slapd, directory: LdapDirectory) -> None:
    with pytest.raises(RequestRefused, match="is the directory of Contoso"):
        await init_ldap_directory(slapd.settings(), organisation="Fabrikam")
    await init_ldap_directory(slapd.settings(), organisation="Contoso")
    assert len(await directory.servers()) == 2


async def test_a_caller_who_is_cancelled_cuts_nothing_in_the_middle(directory: LdapDirectory) -> None:
    await directory.add_recipient(ANNA, "anna@example.org", HERE)
    for number in range(40):
        with trio.move_on_after(number / 10_000):
            await directory.take_token(ANNA)
    present = (await directory.recipient(ANNA)).token
    assert await directory.take_token(ANNA) in (present + 1, present + 2)


async def test_after_closing_verbs_say_so(directory: LdapDirectory) -> None:
    await directory.aclose()
    with pytest.raises(EndpointUnavailable, match="closed here"):
        await directory.servers()


# ---- TLS


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_slapd(tmp_path: Path, authority: trustme.CA) -> Iterator[Slapd]:
    issued = authority.issue_cert("127.0.0.1", common_name="localhost")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    with real_slapd(tmp_path / "slapd", tls=(tmp_path / "certificate.pem", tmp_path / "key.pem")) as running:
        yield running


def over_tls(slapd: Slapd, way: str, **changed: object) -> LdapSettings:
    if way == "starttls":
        return slapd.settings(starttls=True, **changed)
    return slapd.settings(uri=f"ldaps://127.0.0.1:{slapd.tls_port}", **changed)


@pytest.mark.parametrize("way", ["ldaps", "starttls"])
async def test_tls_is_verified(tls_slapd: Slapd, authority: trustme.CA, tmp_path: Path, way: str) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with pytest.raises(EndpointBroken, match="certificate"):
        await init_ldap_directory(over_tls(tls_slapd, way), organisation="Contoso")
    settings = over_tls(tls_slapd, way, ca_file=str(tmp_path / "ca.pem"))
    await init_ldap_directory(settings, organisation="Contoso")
    async with open_ldap_directory(settings) as directory:
        await filled(directory)
        await directory.add_recipient(ANNA, "anna@example.org", HERE)
        assert await directory.take_token(ANNA) == 1
    assert WRITER in settings.bind_dn
