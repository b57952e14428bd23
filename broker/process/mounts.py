"""The mounts of our namespace: those of local types, and the places of the others."""

from __future__ import annotations

import os
import re
import select
from typing import Final

TYPES: Final = frozenset(
    b"bcachefs btrfs cramfs devtmpfs erofs exfat ext2 ext3 ext4 f2fs hfsplus iso9660 jfs nilfs2 "
    b"ntfs3 overlay proc ramfs reiserfs rootfs squashfs sysfs tmpfs ubifs udf ufs vfat xfs "
    b"zfs".split()
)
# Blanks and backslashes in a mount point, in octal.
_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")


class Mounts:
    """The table of mounts, read again when it has changed.

    Attributes:
        local: the numbers of the mounts of local types.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._poll = select.poll()
        self.local: frozenset[int] = frozenset()
        self._away: tuple[str, ...] = ()

    def update(self) -> bool:
        """Whether it has changed; raises OSError if it cannot be read."""
        if self._fd < 0:
            self._fd = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
            # "After opening the file for reading, a change in this file (i.e., a filesystem
            # mount or unmount) causes … poll(2) … to mark the file descriptor as having a
            # priority event (POLLPRI)" (proc(5), of mounts).
            self._poll.register(self._fd, select.POLLPRI)
        elif not self._poll.poll(0):
            return False
        self._read()
        return True

    def close(self) -> None:
        """Close the table until it is needed again."""
        if self._fd >= 0:
            self._poll.unregister(self._fd)
            os.close(self._fd)
            self._fd = -1

    def away_below(self, directory: str) -> bool:
        """Whether a mount in a directory, or further below, is not local."""
        return any(point.startswith(directory.rstrip("/") + "/") for point in self._away)

    def _read(self) -> None:
        os.lseek(self._fd, 0, os.SEEK_SET)
        data = b""
        while chunk := os.read(self._fd, 1 << 16):
            data += chunk
        local, away = set(), []
        for line in data.splitlines():
            before, _, after = line.partition(b" - ")
            number, _, _, _, point, *_ = before.split(b" ")
            if after.partition(b" ")[0] in TYPES:
                local.add(int(number))
            else:
                away.append(os.fsdecode(_ESCAPE.sub(_unescaped, point)))
        self.local, self._away = frozenset(local), tuple(away)


def _unescaped(escape: re.Match[bytes]) -> bytes:
    return bytes([int(escape[1], 8)])
