"""Which directory a root has, and that it has one."""

import sys
from pathlib import Path

import pytest

from moverq.directory.opening import find_directory
from moverq.errors import EndpointUnavailable, NotFound, RequestRefused
from moverq.root import init_root, open_root
from tests.support.cli import Here
from tests.support.slapd import Slapd, real_slapd

ADA = "ada@example.org"


def settings_file(path: Path, slapd: Slapd | None = None) -> Path:
    file = path / "ldap.toml"
    parts = {"uri": "ldap://127.0.0.1:1", "base": "dc=x", "people": "dc=x", "configuration": "ou=moverq,dc=x"}
    file.write_text(slapd.toml() if slapd else "[ldap]\n" + "".join(f'{k} = "{v}"\n' for k, v in parts.items()))
    return file


async def test_a_root_of_its_own_does_not_go_to_ldap(tmp_path: Path) -> None:
    await init_root(tmp_path / "root")
    with pytest.raises(RequestRefused, match="of its own already"):
        await init_root(tmp_path / "root", directory_settings=settings_file(tmp_path))
    assert (await find_directory(tmp_path / "root")).kind == "sqlite"


async def test_where_there_is_none_it_is_said_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="moverq init"):
        await find_directory(tmp_path)


async def test_without_the_extra_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "anyldap"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("moverq.directory.ldap", "moverq.directory.ldap_connection"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("moverq.directory.ldap", raising=False)
    monkeypatch.setitem(sys.modules, "anyldap", None)
    with pytest.raises(RequestRefused, match=r"pip install 'moverq\[ldap\]'"):
        await init_root(tmp_path / "root", directory_settings=settings_file(tmp_path))


async def test_a_server_that_is_away_leaves_no_half_root(tmp_path: Path) -> None:
    with pytest.raises(EndpointUnavailable, match="cannot be reached"):
        await init_root(tmp_path / "root", directory_settings=settings_file(tmp_path))
    with pytest.raises(NotFound):
        await find_directory(tmp_path / "root")
    await init_root(tmp_path / "root")


@pytest.mark.slow
async def test_two_roots_share_one_directory(tmp_path: Path) -> None:
    with real_slapd(tmp_path / "slapd") as slapd:
        file = settings_file(tmp_path, slapd)
        for name in ("one", "two"):
            await init_root(tmp_path / name, directory_settings=file)
        with pytest.raises(RequestRefused, match="in LDAP already"):
            await init_root(tmp_path / "one")
        async with open_root(tmp_path / "one") as one, open_root(tmp_path / "two") as two:
            await one.server_add("mail1.example.org", version="2010")
            await one.database_add("DB1", server="mail1.example.org", path=tmp_path / "DB1")
            await one.mailbox_add(ADA, database="DB1")
            assert await two.deliver(ADA, b"Subject: hello\r\n\r\n")
            assert (await one.mailbox_show(ADA)).items == 1


@pytest.mark.slow
def test_the_command_line_shows_where_it_is(tmp_path: Path) -> None:
    cli = Here(tmp_path / "root")
    with real_slapd(tmp_path / "slapd") as slapd:
        cli.ok("init", "--organisation", "Contoso", "--directory", str(settings_file(tmp_path, slapd)))
        shown = cli.ok("directory", "show", "--json").json
        assert (shown["kind"], shown["organisation"], shown["recipients"]) == ("ldap", "Contoso", 0)
        assert shown["where"].startswith(slapd.uri)
        assert shown["attributes"]["host"] == "mailHost"
        assert "password" not in (cli.root / "directory.toml").read_text().replace("slapd/password", "").replace(
            "password_file", ""
        )
    away = cli("directory", "show")
    assert away.code == 75
    assert "cannot be reached" in away.err
