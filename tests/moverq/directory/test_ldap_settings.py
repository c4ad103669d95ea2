"""What a root's `directory.toml` may say, and that the password stays where it is."""

import os
from pathlib import Path

import attrs
import pytest

from moverq.directory.ldap_settings import LdapSettings, read_settings
from moverq.errors import EndpointBroken, RequestRefused

NEEDED = {
    "uri": "ldaps://ldap.example.org",
    "base": "dc=example,dc=org",
    "people": "ou=people,dc=example,dc=org",
    "configuration": "ou=moverq,dc=example,dc=org",
}
SECRET = "tr0ub4dor"


def toml(path: Path, **values: object) -> Path:
    file = path / "directory.toml"
    tables = [
        f"[ldap.{name}]\n" + "".join(f"{key} = {one!r}\n" for key, one in value.items())
        for name, value in values.items()
        if isinstance(value, dict)
    ]
    values = {name: value for name, value in values.items() if not isinstance(value, dict)}
    lines = [
        f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for name, value in values.items()
    ]
    file.write_text("\n".join(["[ldap]", *lines, *tables, ""]))
    return file


def test_the_least_that_is_needed_is_enough_and_the_rest_has_its_defaults(tmp_path: Path) -> None:
    found = read_settings(toml(tmp_path, **NEEDED))
    assert (found.host, found.port, found.is_tls) == ("ldap.example.org", 636, True)
    assert (found.attributes.host, found.attributes.alias) == ("mailHost", "mailLocalAddress")
    assert found.password() == ""


def test_attributes_may_be_called_otherwise(tmp_path: Path) -> None:
    file = toml(tmp_path, **NEEDED)
    file.write_text(file.read_text() + '[ldap.attributes]\nhost = "x-backend"\n')
    assert read_settings(file).attributes.host == "x-backend"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"uri": "http://ldap.example.org"}, "has not the form"),
        ({"uri": "ldap://"}, "has not the form"),
        ({"uri": "ldap://ldap.example.org"}, "in the clear"),
        ({"uri": "ldaps://ldap.example.org", "starttls": True}, "TLS from the start"),
        ({"bind_dn": "cn=moverq"}, "one of password_file"),
        ({"bind_dn": "cn=moverq", "password_env": "A", "password_file": "b"}, "one of password_file"),
        ({"password_env": "A"}, "one of password_file"),
        ({"password": SECRET}, "password"),
        ({"recipient_classes": []}, "recipient_classes"),
        ({"attributes": {"alias": ""}}, "alias '' is no attribute"),
        ({"attributes": {"mail": "mail)(uid=*"}}, "is no attribute"),
        ({"attributes": {"host": "moverqregister"}}, "one name"),
        ({"attributes": {"colour": "red"}}, "colour"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_sentence(tmp_path: Path, values: dict[str, object], said: str) -> None:
    with pytest.raises(RequestRefused, match=said) as refused:
        read_settings(toml(tmp_path, **{**NEEDED, **values}))
    assert SECRET not in str(refused.value)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(RequestRefused, match=r"base.*colour|colour.*base"):
        read_settings(toml(tmp_path, uri="ldaps://x", people="x", configuration="x", colour="red"))


@pytest.mark.parametrize("text", ["", "[ldap", "[sql]\n", b"\xff\xff".decode("latin-1")])
def test_what_is_no_settings_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "directory.toml").write_text(text, encoding="latin-1")
    with pytest.raises(RequestRefused, match=r"directory\.toml"):
        read_settings(tmp_path / "directory.toml")
    with pytest.raises(RequestRefused, match="cannot be read"):
        read_settings(tmp_path / "missing.toml")


def test_starttls_or_loopback_allow_the_plain_port() -> None:
    for values in ({"uri": "ldap://ldap.example.org", "starttls": True}, {"uri": "ldap://127.0.0.1:3890"}):
        assert not LdapSettings(**{**NEEDED, **values}).is_tls  # type: ignore[arg-type]


def test_the_password_comes_from_a_file_the_environment_or_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text(f"{SECRET}\n")
    monkeypatch.setenv("LDAP_PASSWORD", SECRET)
    for way in (
        {"password_file": str(tmp_path / "password")},
        {"password_env": "LDAP_PASSWORD"},
        {"password_command": ["cat", str(tmp_path / "password")]},
    ):
        settings = LdapSettings(**NEEDED, bind_dn="cn=moverq", **way)  # type: ignore[arg-type]
        assert settings.password() == SECRET
        assert SECRET not in repr(settings)
        assert SECRET not in str(attrs.asdict(settings))


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ({"password_file": "/nonexistent"}, "FileNotFoundError"),
        ({"password_env": "NOT_SET_ANYWHERE"}, "not set"),
        ({"password_command": ["sh", "-c", f"echo {SECRET}; exit 3"]}, "exit code 3"),
        ({"password_command": ["/nonexistent"]}, "FileNotFoundError"),
        ({"password_file": os.devnull}, "is empty"),
    ],
)
def test_a_password_that_cannot_be_read_is_the_operators(way: dict[str, object], said: str) -> None:
    with pytest.raises(EndpointBroken, match=said) as broken:
        LdapSettings(**NEEDED, bind_dn="cn=moverq", **way).password()  # type: ignore[arg-type]
    assert SECRET not in str(broken.value)
