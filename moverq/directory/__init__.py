"""The directory service: who lives where, and nothing else decides that."""

from importlib.resources import files


def schema_ldif() -> str:
    """What an LDAP server has to know to keep the directory: OpenLDAP's form, for cn=config."""
    return files(__name__).joinpath("moverq.ldif").read_text()
