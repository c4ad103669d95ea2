"""Which moves are online: the version matrix as data, each rule with its source.

Exchange follows a mailbox live only where both stores can: the 2010 store, and the 2007 store from SP2 on, which was
changed for exactly that. Everything older, and every move down, locks the mailbox for the whole copy. A pair that no
rule names is moved offline: slower is safer than a feed that may have holes.
"""

import attrs

_ORDER = ("5.5", "2000", "2003", "2007", "2010", "2013", "2016", "2019")
"""Releases, oldest first: only for telling a move down."""
_MAIL_SYSTEMS = ("IMAP", "MAILDIR", "MBOX")


@attrs.frozen(kw_only=True)
class Rule:
    source: str
    """A release, with the least service pack that it holds for, as "2007 SP2"."""
    target: str
    online: bool
    because: str


_FOLLOWED = "IMAP is followed live by CONDSTORE, or by comparing folders where the server has none"
_FILES = "a Maildir is followed live, by the times of its folders and the names of its files"
_MBOX = "an mbox is followed live: a file that changed is read anew"

MATRIX: tuple[Rule, ...] = (
    Rule(source="IMAP", target="IMAP", online=True, because=_FOLLOWED),
    Rule(source="IMAP", target="2010", online=True, because=_FOLLOWED),
    Rule(source="2010", target="IMAP", online=True, because=_FOLLOWED),
    *(Rule(source="MAILDIR", target=other, online=True, because=_FILES) for other in ("MAILDIR", "IMAP", "2010")),
    *(Rule(source=other, target="MAILDIR", online=True, because=_FILES) for other in ("IMAP", "2010")),
    *(Rule(source="MBOX", target=other, online=True, because=_MBOX) for other in ("MBOX", "MAILDIR", "IMAP", "2010")),
    *(Rule(source=other, target="MBOX", online=True, because=_MBOX) for other in ("MAILDIR", "IMAP", "2010")),
    Rule(
        source="2010",
        target="2010",
        online=True,
        because="Microsoft, 'Understanding Move Requests' (Exchange 2010): online between 2010 databases",
    ),
    Rule(
        source="2007 SP2",
        target="2010",
        online=True,
        because="Microsoft, 'Understanding Move Requests' (Exchange 2010): online from 2007 SP2, whose store was "
        "changed for it",
    ),
    Rule(
        source="2007",
        target="2010",
        online=False,
        because="Exchange 2007 before SP2 cannot be followed live (KB 2591933); install SP2 or move offline",
    ),
    Rule(
        source="2003",
        target="2010",
        online=False,
        because="Exchange 2003 cannot be followed live (KB 2591933): the mailbox is locked for the whole move",
    ),
)


@attrs.frozen(kw_only=True)
class VersionDecision:
    """What the pair decided, for the report."""

    source: str
    target: str
    online: bool
    because: str


def decide(source: str, target: str) -> VersionDecision:
    """Online or offline for this pair of server versions, and why."""
    from_release, from_pack = parsed(source)
    to_release, to_pack = parsed(target)

    def decision(online: bool, because: str) -> VersionDecision:
        return VersionDecision(source=source, target=target, online=online, because=because)

    for rule in MATRIX:
        source_release, source_pack = parsed(rule.source)
        target_release, target_pack = parsed(rule.target)
        if (from_release, to_release) == (source_release, target_release) and (
            from_pack >= source_pack and to_pack >= target_pack
        ):
            return decision(rule.online, rule.because)
    if from_release in _ORDER and to_release in _ORDER and _ORDER.index(to_release) < _ORDER.index(from_release):
        return decision(False, f"a move down from {source} to {target} is always offline")
    return decision(
        False,
        f"nothing is known of moves from {source!r} to {target!r}, so the mailbox is locked for the "
        f"whole move; set the servers' versions in the directory if they are wrong",
    )


def said_wrong(version: str) -> str | None:
    """What is wrong with a version that nothing can be compared with; None: nothing is."""
    release, pack = parsed(version)
    is_whole = version.strip().upper() == (f"{release} SP{pack}" if pack else release)
    if is_whole and (release in _ORDER or (release in _MAIL_SYSTEMS and not pack)):
        return None
    return (
        f"{version!r} is no version that moves can be decided by: say {', '.join(_ORDER)}, if need be with a service "
        f"pack, as 2007 SP2, or {', '.join(_MAIL_SYSTEMS[:-1])} or {_MAIL_SYSTEMS[-1]}"
    )


def parsed(version: str) -> tuple[str, int]:
    """("2007", 2) of "2007 SP2"; ("2010", 0) of "2010". What is no version keeps its text, with pack 0."""
    release, _, pack = version.strip().upper().partition(" SP")
    return (release.strip(), int(pack)) if pack.strip().isdigit() else (release.strip(), 0)
