"""Several hosts on one machine: namespaces of the kernel, each with its own network, processes, names and folders.

Nothing of them is visible outside: the switch that joins them is in a namespace too, so that runs beside each other
cannot collide, and addresses are free to choose. A host lives as long as a pipe from this program is open; when the
program dies, however it does, so do all hosts, with their processes, links and mounts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

SUBNET = "10.77.0"
SETTLE_SECONDS = 30.0
_OWN = ("tmp", "var/tmp")  # folders that hosts do not share
_KEEPER = """
set -e
mount --make-rprivate /
mount -t tmpfs -o size=1g tmpfs /dev/shm
cd "$1"
mount --bind "$3" code
mount --bind hosts /etc/hosts
mount --no-canonicalize --bind var/tmp /var/tmp
mount --no-canonicalize --bind tmp /tmp
mkdir -p "$3"
mount --no-canonicalize --bind code "$3"
cd /
hostname "$2"
echo ready
while read -r _; do :; done
"""
# bash is process 1 of the host: it takes over what has lost its parents, and ends with the pipe. Names of folders are
# relative, as the host's files and the code may lie below a folder that is hidden by then.
_SWITCH = """
set -e
ip link add switch type bridge
ip link set switch up
echo ready
while read -r _; do :; done
"""


class HostsError(RuntimeError):
    """This machine lets nobody make hosts, or lacks what makes them."""


class _Keeper:
    """A process that holds namespaces open.

    Attributes:
        pid: of the first process in them, as seen from outside.
    """

    def __init__(self, namespaces: Sequence[str], script: str, *words: str, inside: _Keeper | None = None) -> None:
        command = ["unshare", *namespaces, "--fork", "--kill-child", "bash", "-c", script, "host", *words]
        if inside is not None and os.geteuid() != 0:  # links join namespaces of one user only
            command = ["nsenter", "--target", str(inside.pid), "--user", "--preserve-credentials", *command]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            _, said = self._process.communicate()
            raise HostsError(said.strip() or f"{command[0]} ended with {self._process.returncode}")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        self.pid = int(children.read_text().split()[0])

    @property
    def on(self) -> bool:
        """Whether the namespaces are held open."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Like a power cut: the kernel ends everything in the namespaces at once."""
        self._process.kill()
        self._process.communicate()
        deadline = time.monotonic() + SETTLE_SECONDS
        while Path(f"/proc/{self.pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)


class Host:
    """A host with an address and a name of its own.

    Attributes:
        name: of the host, which all hosts resolve.
        address: in the network of the hosts.
        files: folder outside with what is in its ``/tmp`` and ``/var/tmp``.
    """

    def __init__(self, network: Network, number: int, name: str, folder: Path) -> None:
        self.name, self.address, self.files = name, f"{SUBNET}.{number}", folder
        self._network, self._link = network, f"to{number}"
        self._start()

    def _start(self) -> None:
        for own in _OWN:
            (self.files / own).mkdir(parents=True, exist_ok=True)
            (self.files / own).chmod(0o1777)
        (self.files / "code").mkdir(exist_ok=True)
        (self.files / "hosts").write_text(self._network.names)
        kinds = ["--net", "--mount", "--pid", "--mount-proc", "--uts", "--ipc"]
        self._keeper = _Keeper(
            kinds, _KEEPER, str(self.files), self.name, str(self._network.code), inside=self._network.switch
        )
        self._network.plug(self._link, self._keeper.pid)
        self.check("ip", "link", "set", "lo", "up")
        self.check("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self.check("ip", "link", "set", "eth0", "up")

    def command(self, *words: str) -> list[str]:
        """What runs a command on this host."""
        enter = ["nsenter", "--target", str(self._keeper.pid), "--net", "--mount", "--pid", "--uts", "--ipc"]
        if os.geteuid() != 0:
            enter += ["--user", "--preserve-credentials"]
        return [*enter, "--", *words]

    def check(self, *words: str, env: Mapping[str, str] | None = None, timeout: float = 60.0) -> str:
        """Run a command to its end, which must be a good one; what it printed."""
        done = subprocess.run(
            self.command(*words), env=env, capture_output=True, text=True, timeout=timeout, check=False
        )
        if done.returncode:
            raise HostsError(f"{' '.join(words)} on {self.name}: {done.stdout}{done.stderr}")
        return done.stdout

    def begin(self, *words: str, env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start a command; what it prints is added to a file."""
        whole, none = self.command(*words), subprocess.DEVNULL
        with log.open("ab") as stream:
            return subprocess.Popen(whole, env=env, stdin=none, stdout=stream, stderr=subprocess.STDOUT)

    @property
    def on(self) -> bool:
        """Whether it runs."""
        return self._keeper.on

    def kill(self) -> None:
        """A power cut."""
        self._keeper.kill()
        self._network.unplug(self._link)

    def restart(self) -> None:
        """Power comes back: the disk is what it was, nothing runs; /tmp is empty, as it is after a boot."""
        shutil.rmtree(self.files / "tmp")
        self._start()

    def cut(self) -> None:
        """The cable is pulled out: everything runs on, alone."""
        self._network.switched(self._link, "down")

    def mend(self) -> None:
        """The cable is back."""
        self._network.switched(self._link, "up")


class Network:
    """A switch, and hosts at it.

    Args:
        folder: for their files.
        names: of the hosts that there may be.
        code: folder that all of them see where it is, even below ``/tmp``.

    Raises:
        HostsError: there can be none on this machine.
    """

    def __init__(self, folder: Path, names: Sequence[str], code: Path) -> None:
        missing = [tool for tool in ("ip", "unshare", "nsenter", "bash", "mount") if shutil.which(tool) is None]
        if missing:
            raise HostsError(f"there is no {' and no '.join(missing)} (packages iproute2 and util-linux)")
        self.code = code
        self._folder, self._numbers = folder, {name: number for number, name in enumerate(names, start=1)}
        lines = [f"{SUBNET}.{number} {name}" for name, number in self._numbers.items()]
        self.names = "\n".join(["127.0.0.1 localhost", *lines, ""])
        self.hosts: dict[str, Host] = {}
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        self.switch = _Keeper([*user, "--net"], _SWITCH)

    def host(self, name: str) -> Host:
        """The host of that name, which is started where it is not there yet."""
        if name not in self.hosts:
            self.hosts[name] = Host(self, self._numbers[name], name, self._folder / name)
        return self.hosts[name]

    def _in_switch(self, *words: str, check: bool = True) -> None:
        enter = ["nsenter", "--target", str(self.switch.pid), "--net"]
        enter += [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        done = subprocess.run([*enter, *words], capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise HostsError(f"{' '.join(words)}: {done.stderr}")

    def plug(self, link: str, pid: int) -> None:
        """Join the namespace of a process to the switch, as its ``eth0``."""
        self._in_switch("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        self._in_switch("ip", "link", "set", link, "master", "switch", "up")

    def unplug(self, link: str) -> None:
        """Forget a link; the kernel does so by itself, a little later."""
        self._in_switch("ip", "link", "delete", link, check=False)

    def switched(self, link: str, state: str) -> None:
        """Take a link ``up`` or ``down``."""
        self._in_switch("ip", "link", "set", link, state)

    def close(self) -> None:
        """End all hosts."""
        for host in self.hosts.values():
            host.kill()
        self.switch.kill()
