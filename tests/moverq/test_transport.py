"""The durable queue: nothing submitted is lost, nothing is out of order, and a second delivery has the same key."""

import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
import trio.testing

from moverq.errors import (
    EndpointBroken,
    EndpointBusy,
    EndpointUnavailable,
    MailboxLocked,
    MoveError,
    NotFound,
    RequestRefused,
)
from moverq.model.delivery import delivery_key
from moverq.transport import Transport, open_transport

ANNA, BERT = "anna@example.org", "bert@example.org"
LOCKED = MailboxLocked(mailbox="anna")


async def inline(fn: Callable[[], Any]) -> Any:
    await trio.lowlevel.checkpoint()
    return fn()


class Mailboxes:
    """What `deliver` delivers to: refuses as told, and knows keys."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bytes, bytes]] = []
        self.mail: dict[str, list[bytes]] = {}
        self.keys: set[tuple[bytes, bytes]] = set()
        self.refusals: dict[str, Exception] = {}
        self.after: Callable[[], object] = lambda: None
        self.held_bytes = self.most_bytes = self.most_at_once = 0
        self.at_once: dict[str, int] = {}

    async def deliver(self, *, recipient: str, sender: str, content: bytes, key: bytes, received_ms: int) -> None:
        self.calls.append((recipient, content, key))
        self.held_bytes += len(content)
        self.at_once[recipient] = self.at_once.get(recipient, 0) + 1
        assert self.at_once[recipient] == 1, "one at a time for one recipient"
        self.most_bytes = max(self.most_bytes, self.held_bytes)
        self.most_at_once = max(self.most_at_once, sum(self.at_once.values()))
        try:
            for _ in range(3):
                await trio.lowlevel.checkpoint()
            if recipient in self.refusals:
                raise self.refusals[recipient]
            if (key, content) not in self.keys:
                self.keys.add((key, content))
                self.mail.setdefault(recipient, []).append(content)
        finally:
            self.held_bytes -= len(content)
            self.at_once[recipient] -= 1
        self.after()


@pytest.fixture
def mailboxes() -> Mailboxes:
    return Mailboxes()


@pytest.fixture
def opened(tmp_path: Path, mailboxes: Mailboxes) -> Callable[..., AbstractAsyncContextManager[Transport]]:
    def open_it(**more: Any) -> AbstractAsyncContextManager[Transport]:
        return open_transport(
            tmp_path / "queue.sqlite",
            mailboxes.deliver,
            offload=inline,
            now_ms=lambda: 7,
            rng=Random(1),
            **more,
        )

    return open_it


async def test_a_message_is_delivered_once_and_leaves_the_queue(opened, mailboxes: Mailboxes) -> None:
    async with opened() as transport:
        key = await transport.submit("s@x.org", ANNA, b"one")
        await transport.wait_idle()
        assert mailboxes.calls == [(ANNA, b"one", delivery_key("s@x.org", ANNA, b"one"))]
        assert key == mailboxes.calls[0][2]
        assert await transport.queue() == []


async def test_what_was_submitted_is_there_after_a_stop_and_delivered_at_the_next_start(
    opened, mailboxes: Mailboxes
) -> None:
    async with opened(workers=0) as transport:
        for number in range(5):
            await transport.submit("s@x.org", ANNA, b"%d" % number)
        queued = await transport.queue()
        assert [(entry.recipient, entry.received_ms, entry.bytes, entry.failed) for entry in queued] == [
            (ANNA, 7, 1, None)
        ] * 5
        assert await transport.queue(after=queued[2].number, limit=1) == queued[3:4]
    assert mailboxes.calls == []
    async with opened() as transport:
        await transport.wait_idle()
    assert mailboxes.mail == {ANNA: [b"0", b"1", b"2", b"3", b"4"]}


async def test_mail_to_a_locked_mailbox_waits_in_order_and_holds_nobody_else_up(
    opened, mailboxes: Mailboxes, autojump_clock: trio.testing.MockClock
) -> None:
    mailboxes.refusals[ANNA] = LOCKED
    async with opened() as transport:
        for number in range(4):
            await transport.submit("s@x.org", ANNA, b"a%d" % number)
            await transport.submit("s@x.org", BERT, b"b%d" % number)
        await trio.sleep(30)
        assert mailboxes.mail == {BERT: [b"b0", b"b1", b"b2", b"b3"]}
        waiting = await transport.queue()
        assert [entry.waiting for entry in waiting] == [str(LOCKED)] * 4
        tries = sum(recipient == ANNA for recipient, _, _ in mailboxes.calls)
        assert 8 < tries < 20, "close together at first, then further and further apart"
        del mailboxes.refusals[ANNA]
        await transport.wait_idle()
        assert mailboxes.mail[ANNA] == [b"a0", b"a1", b"a2", b"a3"]
        assert trio.current_time() < 200


async def test_a_nudge_ends_the_wait_at_once(
    opened, mailboxes: Mailboxes, autojump_clock: trio.testing.MockClock
) -> None:
    mailboxes.refusals[ANNA] = EndpointBusy(endpoint="store", retry_after_s=3600.0)
    async with opened() as transport:
        await transport.submit("s@x.org", ANNA, b"one")
        await trio.sleep(1)
        del mailboxes.refusals[ANNA]
        transport.nudge(ANNA)
        await transport.wait_idle()
        assert trio.current_time() < 2
        transport.nudge("nobody@example.org")
        await transport.wait_idle()
        await trio.sleep(7200)
    assert mailboxes.mail == {ANNA: [b"one"]}
    assert len(mailboxes.calls) == 2, "asked for an hour, it waited an hour"


@pytest.mark.parametrize(
    "error",
    [
        LOCKED,
        EndpointUnavailable(endpoint="store", why="away"),
        EndpointBroken(endpoint="store", why="the disk is full"),
        ExceptionGroup("two", [LOCKED, EndpointUnavailable(endpoint="store", why="away")]),
    ],
)
async def test_trouble_that_is_not_the_messages_own_keeps_it_queued(
    opened, mailboxes: Mailboxes, autojump_clock: trio.testing.MockClock, error: Exception
) -> None:
    mailboxes.refusals[ANNA] = error
    async with opened() as transport:
        await transport.submit("s@x.org", ANNA, b"one")
        await trio.sleep(300)
        assert len(mailboxes.calls) > 5
        assert [entry.failed for entry in await transport.queue()] == [None]
        del mailboxes.refusals[ANNA]
        await transport.wait_idle()
    assert mailboxes.mail == {ANNA: [b"one"]}


async def test_a_message_refused_for_good_is_kept_listed_passed_and_retried_by_hand(
    opened, mailboxes: Mailboxes
) -> None:
    refused: MoveError = RequestRefused(why="this mailbox takes no mail from you")
    mailboxes.refusals[ANNA] = refused
    async with opened() as transport:
        await transport.submit("s@x.org", ANNA, b"one")
        await transport.submit("s@x.org", ANNA, b"two")
        await transport.wait_idle()
        assert len(mailboxes.calls) == 2
    async with opened() as transport:
        await transport.wait_idle()
        assert len(mailboxes.calls) == 2, "failed is failed, also after a restart"
        first, second = await transport.queue()
        assert first.failed == second.failed == str(refused)
        del mailboxes.refusals[ANNA]
        await transport.submit("s@x.org", ANNA, b"three")
        await transport.wait_idle()
        await transport.retry(second.number)
        await transport.wait_idle()
        await transport.discard(first.number)
        for number in (first.number, second.number):
            with pytest.raises(NotFound):
                await transport.discard(number)
        with pytest.raises(NotFound):
            await transport.retry(first.number)
        assert await transport.queue() == []
    assert mailboxes.mail == {ANNA: [b"three", b"two"]}


async def test_a_crash_between_delivery_and_removal_delivers_again_with_the_same_key(
    opened, mailboxes: Mailboxes
) -> None:
    with trio.CancelScope() as crash:
        async with opened() as transport:
            mailboxes.after = crash.cancel
            await transport.submit("s@x.org", ANNA, b"one")
            await trio.sleep_forever()
    mailboxes.after = lambda: None
    assert len(mailboxes.calls) == 1
    async with opened() as transport:
        assert len(await transport.queue()) == 1
        await transport.wait_idle()
    assert len(mailboxes.calls) == 2
    assert mailboxes.calls[0] == mailboxes.calls[1]
    assert mailboxes.mail == {ANNA: [b"one"]}


async def test_a_bug_in_deliver_is_heard_of_and_loses_nothing(opened, mailboxes: Mailboxes) -> None:
    mailboxes.refusals[ANNA] = ZeroDivisionError()
    with pytest.RaisesGroup(ZeroDivisionError):
        async with opened() as transport:
            await transport.submit("s@x.org", ANNA, b"one")
            await trio.sleep_forever()
    del mailboxes.refusals[ANNA]
    async with opened() as transport:
        await transport.wait_idle()
    assert mailboxes.mail == {ANNA: [b"one"]}


async def test_the_same_message_twice_is_one_and_the_same_key_with_other_content_is_two(
    opened, mailboxes: Mailboxes
) -> None:
    async with opened(workers=0) as transport:
        for content in (b"one", b"one", b"other"):
            assert await transport.submit("s@x.org", ANNA, content, key=b"mine") == b"mine"
        await transport.submit("s@x.org", BERT, b"one", key=b"mine")
        found = [(entry.recipient, entry.bytes) for entry in await transport.queue()]
        assert found == [(ANNA, 3), (ANNA, 5), (BERT, 3)]


async def test_a_submit_cancelled_before_its_turn_queues_nothing(opened, mailboxes: Mailboxes) -> None:
    async with opened() as transport:
        with trio.CancelScope() as scope:
            scope.cancel()
            await transport.submit("s@x.org", ANNA, b"one")
        assert scope.cancelled_caught
        await transport.wait_idle()
    assert mailboxes.calls == []


async def test_recipients_are_served_at_once_within_the_bound_on_memory(opened, mailboxes: Mailboxes) -> None:
    async with opened(workers=0) as transport:
        for number in range(40):
            await transport.submit("s@x.org", f"u{number % 10}@example.org", b"%02d" % number * 500)
        await transport.submit("s@x.org", ANNA, b"x" * 9000)
    async with opened(workers=6, bytes_max=3000) as transport:
        await transport.wait_idle()
    assert mailboxes.most_at_once == 3
    assert mailboxes.most_bytes == 9000, "the one larger than the bound went alone"
    assert all(
        len(mail) == 4 and mail == sorted(mail) for recipient, mail in mailboxes.mail.items() if recipient != ANNA
    )


async def test_in_threads_nothing_is_lost_either(tmp_path: Path, mailboxes: Mailboxes) -> None:
    async with (
        open_transport(tmp_path / "queue.sqlite", mailboxes.deliver) as transport,
        trio.open_nursery() as nursery,
    ):
        for number in range(60):
            nursery.start_soon(transport.submit, "s@x.org", f"u{number % 7}@example.org", b"%d" % number)
    async with open_transport(tmp_path / "queue.sqlite", mailboxes.deliver) as transport:
        await transport.wait_idle()
    assert sorted(int(content) for mail in mailboxes.mail.values() for content in mail) == list(range(60))


async def test_two_on_one_queue_deliver_everything_and_once_by_key(opened, mailboxes: Mailboxes) -> None:
    other = Mailboxes()
    other.keys, other.mail = mailboxes.keys, mailboxes.mail
    async with opened(workers=0) as transport:
        for number in range(30):
            await transport.submit("s@x.org", f"u{number % 5}@example.org", b"%02d" % number)
    async with opened() as first:
        mine, mailboxes.deliver = mailboxes.deliver, other.deliver
        async with opened() as second:
            mailboxes.deliver = mine
            await first.wait_idle()
            await second.wait_idle()
            assert await first.queue() == []
    assert all(mail == sorted(mail) and len(mail) == 6 for mail in mailboxes.mail.values())


def test_a_delivery_key_keeps_its_parts_apart() -> None:
    assert delivery_key("a", "b", b"c").hex() == "bd735517dea8b04bba91d58ed956ea9ce3296d2f39b4a6e1103884815dd71d0d"
    keys = {delivery_key("ab", "c", b""), delivery_key("a", "bc", b""), delivery_key("a", "b", b"c")}
    keys |= {delivery_key("", "ab", b"c"), delivery_key("a", "b", b"c\0"), delivery_key("ä", "b", b"c")}
    assert len(keys) == 6
    assert {len(key) for key in keys} == {32}


SUBMITTER = """
import itertools, sys, trio
from moverq.errors import MailboxLocked
from moverq.transport import open_transport
async def deliver(*, recipient, sender, content, key, received_ms):
    if int(content) % 3:
        print("delivered", int(content), flush=True)
    else:
        raise MailboxLocked(mailbox=recipient)
async def main():
    async with open_transport(sys.argv[1], deliver) as transport:
        for number in itertools.count():
            await transport.submit("s@x.org", f"u{number % 30}@example.org", b"%d" % number)
            print("queued", number, flush=True)
trio.run(main)
"""


def said_until_killed(path: Path, *, lines: int) -> list[bytes]:
    command = [sys.executable, "-c", SUBMITTER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        return said + [line for line in process.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")]


@pytest.mark.slow
async def test_a_killed_process_loses_nothing_that_it_had_taken(opened, mailboxes: Mailboxes, tmp_path: Path) -> None:
    said = said_until_killed(tmp_path / "queue.sqlite", lines=300)
    queued = {int(line.split()[1]) for line in said if line.startswith(b"queued")}
    delivered = {int(line.split()[1]) for line in said if line.startswith(b"delivered")}
    assert len(queued) > 50
    async with opened() as transport:
        await transport.wait_idle()
    rest = {int(content) for mail in mailboxes.mail.values() for content in mail}
    assert queued <= rest | delivered
    assert len(rest & delivered) <= 8, "at most what the workers had in hand comes twice"
