"""Annotations of folders (METADATA) go with them, between real servers, into our store and back."""

import imaplib
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio

from moverq.model.request import Status
from moverq.root import init_root, open_root
from tests.support.cyrus import shared_cyrus
from tests.support.dovecot import Dovecot, shared_dovecot, start_dovecot
from tests.support.imap_world import Mailbox

pytestmark = pytest.mark.slow

ENTRIES = {"/private/comment": 'of "mine" \\ only', "/shared/comment": "für alle"}
KOLAB = "/shared/vendor/kolab/folder-type"


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Dovecot]:
    server = start_dovecot("mdbox", name="annotated", more="protocol imap {\n  imap_metadata = yes\n}\n")
    yield server
    server.stop()


def annotate(client: imaplib.IMAP4, folder: str, entries: dict[str, str]) -> None:
    client.literal = None  # type: ignore[assignment]
    for name, value in entries.items():
        tag = client._new_tag()  # type: ignore[attr-defined]
        data = value.encode()
        client.send(
            tag + b' SETMETADATA "%s" (%s {%d+}\r\n' % (folder.encode(), name.encode(), len(data)) + data + b")\r\n"
        )
        while not (line := client.readline()).startswith(tag):
            pass
        assert line.split()[1] == b"OK", line


def annotations(client: imaplib.IMAP4, folder: str, names: list[str]) -> bytes:
    tag: Any = client._new_tag()  # type: ignore[attr-defined]
    client.send(tag + b' GETMETADATA "%s" (%s)\r\n' % (folder.encode(), " ".join(names).encode()))
    said = b""
    while not (line := client.readline()).startswith(tag):
        said += line
    return said


async def test_annotations_go_there_and_back(dovecot: Dovecot, tmp_path: Path) -> None:
    address = f"{uuid4().hex[:12]}@example.com"
    with (
        closing(Mailbox(dovecot, f"{address}.old", random.Random(1))) as old,
        closing(Mailbox(shared_cyrus(), f"{address}.new", random.Random(2))) as new,
        closing(Mailbox(shared_dovecot("mdbox"), f"{address}.bare", random.Random(3))) as bare,
    ):
        old.fill(3, folders=("INBOX", "Kept"))
        annotate(old.client, "INBOX", {"/private/comment": "of the inbox"})
        annotate(old.client, "Kept", {**ENTRIES, KOLAB: "event"})
        await init_root(tmp_path / "root")
        async with open_root(tmp_path / "root") as root:
            for name, mailbox in (("OLD", old), ("NEW", new), ("BARE", bare)):
                await root.server_add(f"mail-{name.lower()}", version="IMAP")
                url = mailbox.server.url(user="{address}." + name.lower())
                await root.database_add(name, server=f"mail-{name.lower()}", path=url)
            await root.mailbox_add(address, database="OLD")
            with trio.fail_after(60):
                request = await root.move(address, to="NEW", suspend_when_ready_to_complete=True)
                await root.wait(request)
                annotate(old.client, "INBOX", {"/private/comment": "of the inbox, at the last moment"})
                await root.complete(request)
                done = await root.wait(request)
            told = [entry.text for entry in (await root.report(request)).entries]
            assert done.status == Status.COMPLETED_WITH_WARNING.value, done.message
            assert any("does not keep an annotation of a folder" in text for text in told), told  # Kolab's, unasked for
            there = annotations(new.client, "Kept", [*ENTRIES, KOLAB])
            assert b'of "mine" \\ only' in there or b'of \\"mine\\" \\\\ only' in there
            assert "für alle".encode() in there
            assert b"at the last moment" in annotations(new.client, "INBOX", ["/private/comment"])
            annotate(new.client, "Kept", {"/private/comment": "changed at the new home"})
            with trio.fail_after(60):
                done = await root.wait(await root.rollback(address))
            assert done.status == Status.COMPLETED.value, done.message
            there = annotations(old.client, "Kept", [*ENTRIES, KOLAB])
            assert b"changed at the new home" in there
            assert b"event" in there, "what the other server did not keep has come back"
            with trio.fail_after(60):
                request = await root.find(address)
                while (await root.move_show(request)).sync_stage != "SyncFinished":
                    await root.complete(request)
                    await root.wait(request)
                request = await root.move(address, to="BARE")
                done = await root.wait(request)
            told = [entry.text for entry in (await root.report(request)).entries]
            assert done.status == Status.COMPLETED_WITH_WARNING.value, done.message
            assert "The server does not keep an annotation of a folder (4 times)." in told
            assert bare.mail() == old.mail()
