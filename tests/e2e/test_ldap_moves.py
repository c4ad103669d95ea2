"""Moves on a directory in LDAP, whose every write in turn has its effect and loses its answer on the network."""

from itertools import count
from pathlib import Path

import pytest
import trio

from moverq.errors import EndpointUnavailable, RequestRefused
from moverq.limits import Limits
from moverq.model.ids import RequestId
from moverq.root import Root, init_root, open_root
from tests.support.mail import messages_of
from tests.support.slapd import real_slapd
from tests.support.tcp_proxy import TcpProxy, is_ldap_write, open_proxy

ADA = "ada@example.org"
LIMITS = Limits(retry_delay_s=0.01, retry_delay_max_s=0.05, reverse_interval_s=0.01)

pytestmark = pytest.mark.slow


async def asked_for(root: Root, to: str) -> RequestId:
    """A move, as an administrator asks for it who asks again when he heard nothing."""
    for _ in range(3):
        try:
            return await root.move(ADA, to=to, soak_s=0)
        except EndpointUnavailable:
            pass
        except RequestRefused:
            break  # the earlier one was taken
    return await root.find(ADA)


async def test_a_move_gets_there_whichever_answer_of_the_directory_is_lost(tmp_path: Path) -> None:
    with real_slapd(tmp_path / "slapd") as slapd:
        async with open_proxy(slapd.port, is_write=is_ldap_write) as proxy:
            (tmp_path / "ldap.toml").write_text(slapd.toml().replace(f":{slapd.port}", f":{proxy.port}"))
            await init_root(tmp_path / "root", directory_settings=tmp_path / "ldap.toml")
            async with open_root(tmp_path / "root", limits=LIMITS) as root:
                for number in (1, 2):
                    await root.server_add(f"mail{number}.example.org", version="2010")
                    await root.database_add(f"DB{number}", server=f"mail{number}.example.org")
                await root.mailbox_add(ADA, database="DB1")
                lost = await losing_each(root, proxy)
    assert lost >= 5, "a move has more writes than that"


async def losing_each(root: Root, proxy: TcpProxy) -> int:
    """How many writes lost their answer, one a move."""
    for number in count():
        await root.deliver(ADA, f"Subject: {number}\r\n\r\n".encode())
        before = (await root.directory.locate(ADA)).register
        to = "DB2" if before.home.database == "DB1" else "DB1"
        proxy.lose_answer(skip=number)
        with trio.fail_after(60):
            request = await asked_for(root, to)
            done = await root.wait(request)
            while (await root.move_show(request)).sync_stage != "SyncFinished":
                await root.complete(request)
                await root.wait(request)
        assert done.status == "Completed", (number, done.message)
        after = await root.directory.locate(ADA)
        assert after.register.home.database == to, number
        assert after.register.epoch > before.epoch
        assert after.active_move is None, number
        assert (await root.mailbox_show(ADA)).guard == "open"
        assert len(await messages_of(root, ADA)) == number + 1
        if proxy.losing is not None:
            return number
    raise AssertionError
