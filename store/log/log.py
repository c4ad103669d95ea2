"""The log: frames in order, across generations. Append at the head; read what lies behind a place.

Who holds `commit.lock` calls `append`; where the head is, the catalogue's applied position says (`commit`). The log
itself remembers nothing but an open file, so a process that comes late, and one that slept, see the same.

Damage: behind the applied position a frame may be torn, when whoever wrote it died: if nothing valid is chained
behind it, it was never acknowledged, and `cut` zeroes it. Damage anywhere else is `Corruption`, with file and offset.
"""

from collections.abc import Iterator
from pathlib import Path

import attrs

from store.disk import Disk, File
from store.errors import Corruption, StoreBroken
from store.frame import HEADER_BYTES, Damage, Frame, FrameKind, decode, encode, padded, payload_length
from store.ids import LogHead, LogPosition, Signature
from store.layout import Layout, generation_numbers
from store.limits import BLOCK, FRAME_BYTES_MAX, GENERATION_BYTES_MAX, GENERATION_GROW_BYTES
from store.log.generation import GenerationHeader, decode_header, make_generation


@attrs.define
class Log:
    """A database's log, in plain blocking code; one caller at a time.

    `signature` is the timeline this opener saw in the catalogue; a frame of another one is damage.
    """

    _disk: Disk
    _layout: Layout
    signature: Signature
    _file: File | None = None
    _number: int = 0

    def __repr__(self) -> str:
        return f"<Log {self._layout.log} at generation {self._number}>"

    def append(self, payload: bytes, *, head: LogHead, now_ms: int) -> LogHead:
        """The payload is a frame behind `head`. Durable on return; returns the new head.

        Raises `StoreFull`, `StoreBroken`: the frame may or may not be there; nobody may append again before a
        fresh opener has looked.
        """
        return self._put(FrameKind.GROUP, payload, self.make_room(len(payload), head=head, now_ms=now_ms))

    def make_room(self, payload_bytes: int, *, head: LogHead, now_ms: int) -> LogHead:
        """Where a frame with so large a payload goes: a generation that is full is rolled, the file is extended.

        Raises `StoreFull`, `StoreBroken`: nothing of the frame was written, so appending may be tried again.
        """
        size = padded(HEADER_BYTES + payload_bytes)
        if head.position.offset > BLOCK and head.position.offset + size + BLOCK > GENERATION_BYTES_MAX:
            head = self._roll(head, now_ms=now_ms)
        self._grown(head.position.generation, head.position.offset + size)
        return head

    def _put(self, kind: FrameKind, payload: bytes, head: LogHead) -> LogHead:
        raw, after = encode(kind, payload, signature=self.signature, head=head)
        file = self._grown(head.position.generation, after.position.offset)
        file.write(raw, head.position.offset)
        file.sync()
        return after

    def _grown(self, number: int, end: int) -> File:
        """The generation's file, with blocks up to `end` and some more beyond."""
        file = self._open(number)
        size = file.size()
        if end > size:
            file.write(bytes(padded(end, GENERATION_GROW_BYTES) - size), size)
        return file

    def _roll(self, head: LogHead, *, now_ms: int) -> LogHead:
        """Seal the generation that `head` is in, and begin the next one."""
        sealed = self._put(FrameKind.SEAL, b"", head)
        return self._begin(sealed, now_ms=now_ms)

    def _begin(self, sealed: LogHead, *, now_ms: int) -> LogHead:
        header = GenerationHeader(
            signature=self.signature,
            number=sealed.position.generation + 1,
            created_ms=now_ms,
            chain=sealed.chain,
        )
        make_generation(self._disk, self._layout, header)
        return header.head

    def is_quiet(self, head: LogHead) -> bool:
        """Is nothing written behind `head`? One small read: what every commit begins with."""
        file = self._open(head.position.generation)
        raw = file.read(HEADER_BYTES, head.position.offset)
        return self._promised(raw, head.position) is None

    def read(self, after: LogHead) -> Iterator[Frame]:
        """The valid frames behind `after`, seals left out, up to the end or the first damage."""
        for frame in self.read_all(after):
            if frame.kind is FrameKind.GROUP:
                yield frame

    def read_all(self, after: LogHead) -> Iterator[Frame]:
        """The valid frames behind `after`, seals too.

        Raises:
            Corruption: a generation is missing or is not chained to the one before it.
        """
        head = after
        while True:
            found = self._frame(head)
            if not isinstance(found, Frame):
                return
            yield found
            head = found.after
            if found.kind is FrameKind.SEAL:
                following = found.after.position.generation + 1
                if following not in self.generations():
                    return  # whoever rolled died between the seal and the next generation
                head = self.begin_of(following, chain=found.after.chain)

    def _frame(self, head: LogHead) -> Frame | Damage | None:
        file = self._open(head.position.generation)
        header = file.read(HEADER_BYTES, head.position.offset)
        length = self._promised(header, head.position)
        if not isinstance(length, int):
            return length
        raw = file.read(padded(HEADER_BYTES + length), head.position.offset)
        return decode(raw, signature=self.signature, head=head)

    def _promised(self, header: bytes, position: LogPosition) -> int | Damage | None:
        """`payload_length`. Raises `StoreBroken` where it is a newer moverq that wrote there: that is no torn tail."""
        found = payload_length(header, signature=self.signature, position=position)
        if isinstance(found, Damage) and found.is_newer:
            raise StoreBroken(
                path=str(self.path(position.generation)),
                why=f"written by a newer moverq ({found.why} at byte {position.offset:,}); use that one",
            )
        return found

    def settle(self, head: LogHead, last: Frame | None, *, now_ms: int) -> LogHead:
        """Make what a predecessor left behind `head` certain, after `last`, its last valid frame there (if any).

        Its page-cache copy may never have reached the disk, so the last frame is rewritten byte for byte and
        synced; a torn tail behind it is cut; a seal without its next generation gets it. Returns the head to append
        at.
        """
        if last is not None:
            file = self._open(last.start.generation)
            file.write(last.raw, last.start.offset)
            file.sync()
            self._disk.sync_folder(self._layout.log)  # nor need the name of a generation that it began
            head = last.after
            if last.kind is FrameKind.SEAL:
                following = head.position.generation + 1
                if following not in self.generations():
                    self._check_has_no_gap(head)
                    return self._begin(head, now_ms=now_ms)
                head = self.begin_of(following, chain=head.chain)
        self.cut(head)
        return head

    def _check_has_no_gap(self, head: LogHead) -> None:
        """Whoever sealed `head`'s generation died before the next one: then there are none behind it. Raises
        `Corruption`."""
        following = head.position.generation + 1
        if self.generations()[-1] > following:
            raise Corruption(
                path=str(self.path(following)),
                offset=0,
                expected=f"a log generation (generation {self.generations()[-1]} is there)",
                found="no file",
            )

    def cut(self, head: LogHead) -> None:
        """Zero a torn tail behind `head`.

        Raises:
            Corruption: the log ends before `head`, or goes on behind the damage, so it is not a tail.
            StoreBroken: it goes on with what a newer moverq wrote.
        """
        file = self._open(head.position.generation)
        size = file.size()
        if size < head.position.offset:
            raise Corruption(
                path=str(file.path),
                offset=size,
                expected=f"frames up to byte {head.position.offset:,}",
                found="the end of the file",
            )
        rest = file.read(size - head.position.offset, head.position.offset)
        if not rest.strip(b"\0"):
            self._check_is_last(head, "nothing")
            return
        damage = self._frame(head)
        why = damage.why if isinstance(damage, Damage) else "bytes behind the end of the log"
        for offset in range(BLOCK, len(rest), BLOCK):
            place = LogPosition(head.position.generation, head.position.offset + offset)
            header = rest[offset : offset + HEADER_BYTES]
            if isinstance(self._promised(header, place), int):
                raise Corruption(
                    path=str(file.path),
                    offset=head.position.offset,
                    expected="a frame (one that belongs behind it is there)",
                    found=why,
                )
        self._check_is_last(head, why)
        file.write(bytes(len(rest)), head.position.offset)
        file.sync()

    def _check_is_last(self, head: LogHead, found: str) -> None:
        """No generation goes on where this one has no seal. Raises `Corruption`."""
        if self.generations()[-1] > head.position.generation:
            raise Corruption(
                path=str(self._layout.generation(head.position.generation)),
                offset=head.position.offset,
                expected="a seal (the next generation is there)",
                found=found,
            )

    def path(self, number: int) -> Path:
        """Where a generation is."""
        return self._layout.generation(number)

    def generations(self) -> list[int]:
        return generation_numbers(self._disk.names(self._layout.log))

    def header(self, number: int) -> GenerationHeader:
        """What a generation's first block says. Raises `Corruption` where it is missing, damaged or foreign."""
        file = self._open(number)
        header = decode_header(file.read(BLOCK, 0), path=str(file.path))
        if header.number != number or header.signature != self.signature:
            raise Corruption(
                path=str(file.path),
                offset=0,
                expected=f"generation {number} of database {self.signature.hex()[:8]}",
                found=f"generation {header.number} of {header.signature.hex()[:8]}",
            )
        return header

    def begin_of(self, number: int, *, chain: bytes | None = None) -> LogHead:
        """Where a generation's first frame is; `chain`: what must have gone before."""
        header = self.header(number)
        if chain is not None and header.chain != chain:
            raise Corruption(
                path=str(self._layout.generation(number)),
                offset=0,
                expected="a generation chained to the one before it",
                found="another digest",
            )
        return header.head

    def _open(self, number: int) -> File:
        if self._file is None or self._number != number:
            self.close()
            path = self._layout.generation(number)
            try:
                self._file = self._disk.open(path)
            except FileNotFoundError:
                raise Corruption(path=str(path), offset=0, expected="a log generation", found="no file") from None
            self._number = number
        return self._file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


assert FRAME_BYTES_MAX > GENERATION_BYTES_MAX  # a frame larger than a generation gets a generation of its own
