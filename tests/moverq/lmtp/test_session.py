"""A session by its bytes: what a client hears, and what is delivered, however the bytes are cut."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from moverq.errors import EndpointBroken, EndpointUnavailable, MailboxLocked, MoveError, NotFound, RequestRefused
from moverq.flow.byte_budget import ByteBudget
from moverq.limits import Limits
from moverq.lmtp.session import MISTAKES_MAX, Deliver, LmtpSession

ADA, BOB = b"ada@example.org", b"bob@example.org"
FRONT = b"Return-Path: <eve@example.net>\r\n"
MESSAGE = b"Subject: hello\r\n\r\nhow are you?\r\n"
LIMITS = Limits(lmtp_message_bytes_max=1 << 20, lmtp_bytes_max=4 << 20, lmtp_recipients_max=3)


@attrs.define(eq=False)
class Post:
    """Mailboxes in dicts, some of which fail."""

    kept: dict[str, list[bytes]] = attrs.field(factory=dict)
    failing: dict[str, Exception] = attrs.field(factory=dict)
    missing: dict[str, Exception] = attrs.field(factory=dict)
    hold: trio.Event | None = None

    async def find(self, address: str) -> Deliver:
        await trio.lowlevel.checkpoint()
        if address in self.missing:
            raise self.missing[address]

        async def deliver(sender: str, content: bytes) -> bool:
            if self.hold is not None:
                await self.hold.wait()
            await trio.lowlevel.checkpoint()
            if address in self.failing:
                raise self.failing[address]
            there = self.kept.setdefault(address, [])
            there.append(content)
            return there.count(content) == 1

        return deliver


@attrs.define(eq=False)
class Client:
    """The other end: sends bytes, and takes so many replies."""

    stream: trio.abc.Stream
    session: LmtpSession
    _got: bytes = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def replies(self, count: int) -> list[str]:
        """The next replies, whole, a reply of several lines as one."""
        found: list[str] = []
        lines: list[str] = []
        while len(found) < count:
            while b"\r\n" not in self._got:
                data = await self.stream.receive_some()
                assert data, f"ended after {found}"
                self._got += bytes(data)
            line, _, self._got = self._got.partition(b"\r\n")
            lines.append(line.decode())
            if line[3:4] == b" ":
                found.append("\n".join(lines))
                lines = []
        return found

    async def begin(self) -> None:
        await self.send(b"LHLO me\r\n")
        await self.replies(2)

    async def rest(self) -> bytes:
        """Everything until the session closes."""
        while data := await self.stream.receive_some():
            self._got += bytes(data)
        return self._got


@asynccontextmanager
async def connected(post: Post, limits: Limits = LIMITS, budget: ByteBudget | None = None) -> AsyncIterator[Client]:
    ours, theirs = trio.testing.memory_stream_pair()
    session = LmtpSession(ours, "mx", post.find, budget or ByteBudget(limits.lmtp_bytes_max), limits)

    async def run() -> None:
        async with ours:
            await session.run()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        with trio.fail_after(60):
            yield Client(theirs, session)
        await theirs.aclose()


def transaction(*recipients: bytes, message: bytes = MESSAGE, size: int | None = None) -> bytes:
    declared = b"" if size is None else b" SIZE=%d" % size
    to = b"".join(b"RCPT TO:<%b>\r\n" % one for one in recipients)
    return b"MAIL FROM:<eve@example.net>%b\r\n%bDATA\r\n%b.\r\n" % (declared, to, message)


async def test_a_client_is_told_what_is_offered() -> None:
    async with connected(Post()) as client:
        await client.send(b"LHLO me\r\n")
        greeting, offers = await client.replies(2)
    assert greeting.startswith("220 mx LMTP")
    assert [line[4:] for line in offers.split("\n")] == [
        "mx",
        "PIPELINING",
        "ENHANCEDSTATUSCODES",
        "8BITMIME",
        "SMTPUTF8",
        f"SIZE {1 << 20}",
    ]


async def test_each_recipient_has_an_answer_of_its_own_in_the_order_of_rcpt() -> None:
    post = Post(
        failing={
            "locked@example.org": MailboxLocked(mailbox="m"),
            "full@example.org": RequestRefused(why="the quota of m is used up"),
        }
    )
    async with connected(post) as client:
        await client.begin()
        await client.send(transaction(b"locked@example.org", ADA, b"full@example.org"))
        told = await client.replies(8)
    assert [line[:9] for line in told] == [
        "250 2.1.0",
        "250 2.1.5",
        "250 2.1.5",
        "250 2.1.5",
        "354 go on",
        "451 4.2.1",
        "250 2.1.5",
        "552 5.2.2",
    ]
    assert [("<locked@" in told[5]), ("<ada@" in told[6]), ("<full@" in told[7])] == [True] * 3
    assert post.kept == {"ada@example.org": [FRONT + MESSAGE]}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NotFound(kind="recipient", name="x"), "550 5.1.1"),
        (NotFound(kind="database", name="DB1"), "451 4.3.0"),
        (EndpointBroken(endpoint="DB1", why="disk full"), "451 4.3.0"),
        (EndpointUnavailable(endpoint="directory", why="away"), "451 4.3.0"),
        (ExceptionGroup("", [NotFound(kind="recipient", name="x"), OSError()]), "451 4.3.0"),
        (AssertionError("a bug"), "451 4.3.0"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Exception) else one,
)
async def test_only_what_is_the_recipients_fault_ends_a_message_for_good(error: MoveError, told: str) -> None:
    """At RCPT and after the message alike, and the session goes on."""
    post = Post(missing={"none@example.org": error}, failing={"fails@example.org": error})
    async with connected(post) as client:
        await client.begin()
        await client.send(b"MAIL FROM:<>\r\nRCPT TO:<none@example.org>\r\nDATA\r\nRSET\r\n")
        first = await client.replies(4)
        await client.send(transaction(b"fails@example.org") + b"NOOP\r\n")
        second = await client.replies(5)
    assert [line[:9] for line in first] == ["250 2.1.0", told, "503 5.5.1", "250 2.0.0"]
    assert [line[:9] for line in second[3:]] == [told, "250 2.0.0"]


async def test_a_message_sent_again_is_told_apart_in_words_alone() -> None:
    post = Post()
    async with connected(post) as client:
        await client.begin()
        await client.send(transaction(ADA) + transaction(ADA) + b"QUIT\r\n")
        told = await client.replies(9)
    assert (told[3], told[7]) == (
        "250 2.1.5 <ada@example.org> delivered",
        "250 2.1.5 <ada@example.org> delivered before",
    )
    assert told[8].startswith("221")


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"", b""),
        (b"\r\n", b"\r\n"),
        (b"..\r\n", b".\r\n"),
        (b"...hidden\r\n", b"..hidden\r\n"),
        (b".a client that does not stuff\r\n", b"a client that does not stuff\r\n"),
        (b"a\r\n..\r\n..b\r\n", b"a\r\n.\r\n.b\r\n"),
        (b"a\n.\nb\r\n", b"a\n.\nb\r\n"),
        (b"a\r.\rb\r\n", b"a\r.\rb\r\n"),
        (b"a\n.\r\nMAIL FROM:<smuggled@example.net>\r\n", b"a\n.\r\nMAIL FROM:<smuggled@example.net>\r\n"),
        (b"\0\xff 8 bits\r\n", b"\0\xff 8 bits\r\n"),
    ],
)
async def test_a_message_is_kept_as_it_was_before_the_dots(sent: bytes, kept: bytes) -> None:
    post = Post()
    async with connected(post) as client:
        await client.begin()
        await client.send(transaction(ADA, message=sent) + b"QUIT\r\n")
        assert (await client.replies(5))[4].startswith("221")
    assert post.kept == {"ada@example.org": [FRONT + kept]}


async def test_a_return_path_that_the_mta_put_there_stays_the_only_one() -> None:
    post = Post()
    async with connected(post) as client:
        await client.begin()
        await client.send(transaction(ADA, message=b"return-path: <eve@example.net>\r\n" + MESSAGE))
        await client.replies(4)
    assert post.kept == {"ada@example.org": [b"return-path: <eve@example.net>\r\n" + MESSAGE]}


@pytest.mark.parametrize("seed", range(20))
async def test_it_does_not_matter_how_the_bytes_are_cut(seed: int) -> None:
    rng = random.Random(seed)
    messages = [
        b"".join(rng.choice([b".", b"\r\n", b"\r", b"\n", b"x", b"..\r\n"]) for _ in range(60)) + b"\r\n"
        for _ in range(10)
    ]
    stuffed = [(b"\r\n" + one).replace(b"\r\n.", b"\r\n..")[2:] for one in messages]
    dialogue = b"LHLO me\r\n" + b"".join(transaction(ADA, message=one) for one in stuffed) + b"QUIT\r\n"
    post = Post()
    async with connected(post) as client, trio.open_nursery() as nursery:

        async def send() -> None:
            rest = dialogue
            while rest:
                step = rng.choice([1, 2, 7, 100])
                await client.send(rest[:step])
                rest = rest[step:]

        nursery.start_soon(send)
        await client.replies(2 + 4 * len(messages) + 1)
    assert post.kept == {"ada@example.org": [FRONT + one for one in messages]}


async def test_pipelined_commands_are_answered_together() -> None:
    async with connected(Post()) as client:
        await client.begin()
        await client.send(b"MAIL FROM:<>\r\nRCPT TO:<ada@example.org>\r\nRSET\r\nNOOP\r\n")
        first = bytes(await client.stream.receive_some())
    assert first.count(b"\r\n") == 4


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([b"MAIL FROM:<>"], ["503"]),
        ([b"LHLO me", b"RCPT TO:<ada@example.org>"], ["250", "503"]),
        ([b"LHLO me", b"DATA"], ["250", "503"]),
        ([b"LHLO me", b"MAIL FROM:<>", b"DATA"], ["250", "250", "503"]),
        ([b"LHLO me", b"MAIL FROM:<>", b"MAIL FROM:<>"], ["250", "250", "503"]),
        ([b"LHLO me", b"MAIL FROM:<>", b"LHLO me", b"RCPT TO:<a@b>"], ["250", "250", "250", "503"]),
        ([b"LHLO me", b"MAIL FROM:<>", b"RSET", b"MAIL FROM:<>"], ["250", "250", "250", "250"]),
        ([b"LHLO me", b"MAIL FROM:<> SIZE=1048577"], ["250", "552"]),
        ([b"LHLO me", b"MAIL FROM:<>", *[b"RCPT TO:<a@b>"] * 4], ["250", "250", "250", "250", "250", "452"]),
        ([b"VRFY ada", b"x" * 5000, b"x" * 200_000, b"NOOP"], ["252", "500", "500", "250"]),
    ],
)
async def test_commands_out_of_turn_and_out_of_bounds_are_refused(lines: list[bytes], told: list[str]) -> None:
    async with connected(Post()) as client:
        await client.replies(1)
        await client.send(b"".join(line + b"\r\n" for line in lines))
        assert [reply[:3] for reply in await client.replies(len(lines))] == told


async def test_a_client_of_another_protocol_is_sent_away() -> None:
    async with connected(Post()) as client:
        await client.send(b"GET / HTTP/1.1\r\n" * (MISTAKES_MAX + 5))
        said = await client.rest()
    assert said.count(b"500 5.5.1") == MISTAKES_MAX
    assert b"421 4.7.0" in said


@pytest.mark.parametrize("declared", [None, 1000, 1_048_576])
async def test_a_message_that_is_too_large_is_read_and_refused_and_the_next_is_taken(declared: int | None) -> None:
    post = Post()
    async with connected(post) as client:
        await client.begin()
        large = b"x" * 998 + b"\r\n"
        await client.send(transaction(ADA, BOB, message=large * 1100, size=declared) + transaction(ADA))
        told = await client.replies(10)
    assert [line[:9] for line in told[4:6]] == ["552 5.3.4"] * 2
    assert told[9].startswith("250 2.1.5")
    assert post.kept == {"ada@example.org": [FRONT + MESSAGE]}


async def test_the_largest_message_there_may_be_is_taken() -> None:
    post = Post()
    content = (b"x" * 1022 + b"\r\n") * 1024
    async with connected(post) as client:
        await client.begin()
        await client.send(transaction(ADA, message=content, size=len(content)))
        assert (await client.replies(4))[3].startswith("250")
    assert post.kept["ada@example.org"] == [FRONT + content]


async def test_a_size_that_counts_line_ends_as_one_byte_is_good_enough() -> None:
    post = Post()
    content = b"\r\n" * 200_000
    async with connected(post) as client:
        await client.begin()
        await client.send(transaction(ADA, message=content, size=200_000))
        assert (await client.replies(4))[3].startswith("250")
    assert post.kept["ada@example.org"] == [FRONT + content]


async def test_a_message_is_not_asked_for_before_there_is_room() -> None:
    budget = ByteBudget(4 << 20)
    async with connected(Post(), budget=budget) as client:
        await client.begin()
        async with budget.holding(3 << 20):
            await client.send(b"MAIL FROM:<>\r\nRCPT TO:<ada@example.org>\r\nDATA\r\n")
            await client.replies(2)
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0) as looking:
                client._got += bytes(await client.stream.receive_some())
            assert looking.cancelled_caught, client._got
        assert (await client.replies(1))[0].startswith("354")
        assert budget.bytes_held == 2 << 20, "undeclared: the most there may be, twice"
        await client.send(b".\r\n")
        await client.replies(1)
        assert budget.bytes_held == 0


async def test_a_client_that_goes_in_the_middle_leaves_nothing_behind() -> None:
    post, budget = Post(), ByteBudget(4 << 20)
    async with connected(post, budget=budget) as client:
        await client.begin()
        await client.send(transaction(ADA)[:-3])
        await client.replies(3)
        await client.stream.aclose()
    assert (post.kept, budget.bytes_held) == ({}, 0)


async def test_a_silent_client_is_sent_away(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Post(), attrs.evolve(LIMITS, lmtp_idle_s=30)) as client:
        await client.begin()
        started = trio.current_time()
        assert b"421 4.4.2" in await client.rest()
        assert trio.current_time() - started == pytest.approx(30)


# ---- stopping


async def while_idle(client: Client) -> None:
    client.session.stop()


async def between_mail_and_data(client: Client) -> None:
    await client.send(b"MAIL FROM:<>\r\n")
    await client.replies(1)
    client.session.stop()


@pytest.mark.parametrize("stop", [while_idle, between_mail_and_data])
async def test_a_stopped_session_says_so_and_ends(stop: Callable[[Client], Awaitable[None]]) -> None:
    async with connected(Post()) as client:
        await client.begin()
        await trio.testing.wait_all_tasks_blocked()
        await stop(client)
        assert (await client.rest()).startswith(b"421 4.3.2")


async def test_a_message_under_way_is_taken_and_answered_before_the_session_stops() -> None:
    post = Post(hold=trio.Event())
    async with connected(post) as client:
        await client.begin()
        whole = transaction(ADA)
        await client.send(whole[:-20])
        await client.replies(3)
        client.session.stop()
        await client.send(whole[-20:])
        await trio.testing.wait_all_tasks_blocked()
        assert post.hold is not None
        post.hold.set()
        delivered, stopping = (await client.rest()).splitlines()
    assert delivered.startswith(b"250 2.1.5")
    assert stopping.startswith(b"421 4.3.2")
    assert post.kept == {"ada@example.org": [FRONT + MESSAGE]}


async def test_a_session_cancelled_while_it_delivers_answers_nothing() -> None:
    post, budget = Post(hold=trio.Event()), ByteBudget(4 << 20)
    ours, theirs = trio.testing.memory_stream_pair()
    session = LmtpSession(ours, "mx", post.find, budget, LIMITS)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            client = Client(theirs, session)
            await client.begin()
            await client.send(transaction(ADA))
            await client.replies(2)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert (client._got, post.kept, budget.bytes_held) == (b"", {}, 0)
