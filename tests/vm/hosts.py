"""Three machines and the wire between them. lab.server, lab.a, lab.b: host.NAME(...) calls a function of guest/nfsjobs.py there."""

import json
import pathlib
import signal
import socket
import threading
import time

import machine

PORT = 24100                            # UDP on 127.0.0.1: a wire's ends are PORT + n and PORT + 10 + n


class Hub:
    """The switch: UDP datagrams are Ethernet frames. cut: numbers of hosts whose cable is out."""

    def __init__(self):
        self.cut, self.sockets = set(), {}
        for n in (1, 2, 3):
            s = self.sockets[n] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            s.bind(("127.0.0.1", PORT + n))
        for n in (1, 2, 3):
            threading.Thread(target=self.forward, args=(n,), daemon=True).start()

    def forward(self, n):
        while True:
            frame = self.sockets[n].recv(65536)
            for other in {1, 2, 3} - {n}:
                if (frame[0] & 1 or frame[5] == other) and not {n, other} & self.cut:
                    self.sockets[other].sendto(frame, ("127.0.0.1", PORT + 10 + other))


class Host:
    def __init__(self, number, role):
        self.number, self.role, self.waiting, self.id, self.process = number, role, {}, 0, None

    def boot(self):
        for _ in range(3):
            if self.start():
                return
            self.kill()
        raise RuntimeError(f"host {self.number} does not boot; see {machine.OUT}/host{self.number}")

    def start(self):
        n, path = self.number, pathlib.Path(f"{machine.WORK}/host{self.number}.ctl")
        path.unlink(missing_ok=True)
        disk = ["-drive", f"file={machine.WORK}/nfs.disk,format=raw,if=virtio,cache=writeback"]
        with open(machine.OUT / f"host{n}", "ab") as console:
            self.process = machine.start(
                ["agent.py", self.role, n],
                ["-netdev", f"socket,id=n0,udp=127.0.0.1:{PORT + n},localaddr=127.0.0.1:{PORT + 10 + n}",
                 "-device", f"virtio-net-pci,netdev=n0,mac=52:54:00:00:00:0{n}",
                 "-chardev", f"socket,id=ctl,path={path},server=on,wait=off", "-device", "virtio-serial-pci",
                 "-device", "virtserialport,chardev=ctl,name=ctl", *(disk if self.role == "server" else [])], console, 1100)
        while not path.exists() and self.process.poll() is None:
            time.sleep(0.05)
        self.s, self.up = socket.socket(socket.AF_UNIX), threading.Event()
        self.s.connect(str(path))
        threading.Thread(target=self.read, args=(self.s,), daemon=True).start()
        return self.up.wait(machine.SECONDS_TO_BOOT)

    def read(self, s):
        try:
            for line in s.makefile("rb"):
                answer = json.loads(line)
                if answer["id"] == 0:
                    self.up.set()
                else:
                    self.waiting[answer["id"]].answer = answer
                    self.waiting[answer["id"]].set()
        except (OSError, ValueError):       # the machine was switched off
            return

    def begin(self, name, *args):
        """Start a call; end() waits for what it returns."""
        self.id += 1
        event = self.waiting[self.id] = threading.Event()
        self.s.sendall(json.dumps({"id": self.id, "name": name, "args": args}).encode() + b"\n")
        return event

    def end(self, event, timeout=600):
        if not event.wait(timeout):
            raise TimeoutError(f"host {self.number}")
        if "error" in event.answer:
            raise RuntimeError(f"host {self.number}: {event.answer['error']}")
        return event.answer["result"]

    def __getattr__(self, name):
        return lambda *args: self.end(self.begin(name, *args))

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)


class Lab:
    def __init__(self):
        machine.prepare()
        self.disk = machine.WORK / "nfs.disk"
        with open(self.disk, "wb") as f:
            f.truncate(400 << 20)
        self.hub, self.hosts = Hub(), []

    def __enter__(self):
        try:
            for number, role in (1, "server"), (2, "client"), (3, "client"):
                self.hosts.append(Host(number, role))
                self.hosts[-1].boot()
        except BaseException:
            self.__exit__()
            raise
        self.server, self.a, self.b = self.hosts
        return self

    def __exit__(self, *_):
        for host in self.hosts:
            host.kill()
        self.disk.unlink()
