#!/usr/bin/python3
"""A disk that remembers: an NBD server on a unix socket that logs every write and flush.

    nbdlog.py SOCKET IMAGE SIZE LOG

Export "data" is IMAGE; what is written to export "mark" is a line for the log. The log is a file of entries
(kind, flags, offset, size), the bytes follow for W and M:
    W  write; flags 1: FUA, durable when it is answered; else it is pending until a flush covers it
    F  flush; offset: how many of the W entries so far it covers, namely those answered before the flush was there
    M  mark
Requests that are there at the same time are taken as sent at the same time: such a flush covers none of such writes.
"""
import os
import select
import socket
import struct
import sys
import threading

HEAD = struct.Struct("<cBxxxxxxQQ")
ABORT, INFO, GO = 2, 6, 7
READ, WRITE, DISCONNECT, FLUSH = 0, 1, 2, 3
lock = threading.Lock()


def main():
    path, image, size, log = sys.argv[1:]
    disk = os.open(image, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    os.truncate(disk, int(size))
    server = Server(disk, int(size), open(log, "wb", buffering=1 << 20))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    threads = []
    for _ in "data", "mark":
        threads.append(threading.Thread(target=server.serve, args=(listener.accept()[0],)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    server.log.close()


class Server:
    def __init__(self, disk, size, log):
        self.disk, self.size, self.log, self.writes = disk, size, log, 0

    def entry(self, kind, flags, offset, size, data=b""):
        self.log.write(HEAD.pack(kind, flags, offset, size))
        self.log.write(data)

    def serve(self, s):
        try:
            export = self.handshake(s)
            if export is not None:
                self.transmit(s, export)
        except (EOFError, ConnectionError):
            pass
        with lock:
            self.log.flush()

    def handshake(self, s):
        s.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
        need(s, 4)
        while True:
            _, option, size = struct.unpack(">8sII", need(s, 16))
            data = need(s, size)

            def reply(kind, body=b""):
                s.sendall(struct.pack(">QIII", 0x3e889045565a9, option, kind, len(body)) + body)

            if option == ABORT:
                reply(1)
                return None
            if option in (INFO, GO):
                name = data[4:4 + struct.unpack(">I", data[:4])[0]].decode()
                # There are flags, flush and FUA.
                reply(3, struct.pack(">HQH", 0, self.size if name == "data" else 1 << 20, 1 | 4 | 8))
                reply(3, struct.pack(">HIII", 3, 512, 4096, 32 << 20))
                reply(1)
                if option == GO:
                    return name
            else:
                reply(0x80000001)

    def transmit(self, s, export):
        got = bytearray()
        while True:
            more = s.recv(4 << 20)
            if not more:
                return
            got += more
            while select.select([s], [], [], 0.0003)[0]:
                more = s.recv(4 << 20)
                if not more:
                    break
                got += more
            requests = []
            while len(got) >= 28:
                _, flags, kind, cookie, offset, size = struct.unpack(">IHHQQI", got[:28])
                end = 28 + (size if kind == WRITE else 0)
                if len(got) < end:
                    break
                requests.append((kind, flags, cookie, offset, size, bytes(got[28:end])))
                del got[:end]
            answers = []
            with lock:
                before = self.writes
                for kind, flags, cookie, offset, size, data in requests:
                    if kind == DISCONNECT:
                        return
                    body = bytes(size) if kind == READ else b""
                    if export == "mark":
                        if kind == WRITE:
                            line = data.rstrip(b"\0")
                            self.entry(b"M", 0, 0, len(line), line)
                    elif kind == READ:
                        body = os.pread(self.disk, size, offset)
                    elif kind == WRITE:
                        os.pwrite(self.disk, data, offset)
                        self.entry(b"W", flags & 1, offset, size, data)
                        self.writes += 1
                    elif kind == FLUSH:
                        self.entry(b"F", 0, before, 0)
                    answers.append(struct.pack(">IIQ", 0x67446698, 0, cookie) + body)
            s.sendall(b"".join(answers))


def need(s, size):
    data = b""
    while len(data) < size:
        more = s.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


if __name__ == "__main__":
    main()
