"""Mailboxes to measure with, the same on every run."""

import random
import string
from array import array

KIB, MIB = 1 << 10, 1 << 20
MONTHS = 'Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec'.split()
DAYS = 'Mon Tue Wed Thu Fri Sat Sun'.split()


def text_pool(size, seed=1):
    """Lines of words; some begin with a dot, some are quoted From_ lines."""
    rng = random.Random(seed)
    words = [''.join(rng.choices('etaoinshrdlu', k=rng.randint(2, 11)))
             for _ in range(4000)]
    lines, have = [], 0
    while have < size:
        line = ' '.join(rng.choices(words, k=rng.randint(0, 10)))[:76]
        odd = rng.randrange(200)
        if odd == 0:
            line = '.' + line
        elif odd == 1:
            line = '>From ' + line
        lines.append(line)
        have += len(line) + 1
    return '\n'.join(lines).encode() + b'\n'


def base64_pool(size, seed=2):
    rng = random.Random(seed)
    alphabet = string.ascii_letters + string.digits + '+/'
    return '\n'.join(''.join(rng.choices(alphabet, k=76))
                     for _ in range(size // 77)).encode() + b'\n'


POOL = text_pool(MIB)
BINARY = base64_pool(MIB)


def from_line(n):
    return (f'From sender{n % 97}@example.org {DAYS[n % 7]} '
            f'{MONTHS[n % 12]} {n % 28 + 1:2} {n % 24:02}:{n % 60:02}:'
            f'{n * 7 % 60:02} 2025\n').encode()


def header(n, kind):
    when = (f'{DAYS[n % 7]}, {n % 28 + 1} {MONTHS[n % 12]} 2025 '
            f'{n % 24:02}:{n % 60:02}:{n * 7 % 60:02}')
    relay = f'relay{n % 13}.example.org'
    return f'''\
Return-Path: <sender{n % 97}@example.org>
X-Original-To: someone@example.net
Delivered-To: someone@example.net
Received: from {relay} ({relay} [192.0.2.{n % 251}])
	by mx.example.net (Postfix) with ESMTPS id {n * 2654435761 % 2**40:010X}
	for <someone@example.net>; {when} +0000 (UTC)
Received: from [198.51.100.{n % 251}] (unknown [198.51.100.{n % 251}])
	by {relay} (Postfix) with ESMTPSA id {n * 40503 % 2**40:010X};
	{when} +0000 (UTC)
Date: {when} +0000
From: "Sender {n % 97}" <sender{n % 97}@example.org>
To: someone@example.net
Subject: Re: message number {n} of the benchmark
Message-ID: <{n}.{n * 69069 % 2**32:08x}@example.org>
MIME-Version: 1.0
Content-Type: {kind}
User-Agent: a mail program

'''.encode()


def piece(pool, start, size):
    """size bytes of the pool, from the line after start, ended."""
    start = pool.find(b'\n', start) + 1
    if start + size > len(pool):
        start = 0
    return pool[start:start + size - 1] + b'\n'


class Mailbox:
    """One that was written to path: where each message's From_ line starts,
    its size as it is stored, and in octets as RETR sends it."""

    def __init__(self, path):
        self.path = path
        self.starts, self.stored, self.octets = (array('q') for _ in range(3))
        self.size = 0

    @property
    def count(self):
        return len(self.starts)

    def add(self, file, n, *parts):
        line = from_line(n)
        self.starts.append(self.size)
        self.stored.append(sum(map(len, parts)))
        self.octets.append(self.stored[-1] + sum(p.count(b'\n') for p in parts))
        self.size += file.write(line)
        for part in parts:
            self.size += file.write(part)
        self.size += file.write(b'\n')

    def sent(self, n):
        """Message n (from 0) as RETR sends it, dots doubled, in pieces."""
        with open(self.path, 'rb') as f:
            f.seek(self.starts[n])
            f.readline()
            left = self.stored[n]
            while left > 0:
                part = f.read(min(left, MIB))
                if len(part) < left:
                    part += f.readline()
                left -= len(part)
                yield (b'\n' + part).replace(b'\n.', b'\n..')[1:] \
                    .replace(b'\n', b'\r\n')


def mixed(path, size):
    """Messages of 2 to 10 KiB, one in 101 of 100 KiB, one in 1601 of 5 MiB,
    until size is reached: odd numbers, so that every second message is half
    of it."""
    rng = random.Random(3)
    box = Mailbox(path)
    n = 0
    with open(path, 'wb') as f:
        while box.size < size:
            n += 1
            if n % 1601 == 800:
                box.add(f, n, header(n, 'application/octet-stream'),
                        *[BINARY] * 5)
                continue
            length = 100 * KIB if n % 101 == 50 else \
                rng.randint(2 * KIB, 10 * KIB)
            head = header(n, 'text/plain; charset=utf-8')
            box.add(f, n, head, piece(POOL, rng.randrange(len(POOL)),
                                      length - len(head)))
    return box


def tiny(path, count):
    """count messages of 160 bytes, From_ line and separator included."""
    box = Mailbox(path)
    with open(path, 'wb') as f:
        for n in range(count):
            head = f'From: a@example.org\nMessage-ID: <{n}@example.org>\n\n'
            left = 160 - len(from_line(n)) - len(head) - 1
            box.add(f, n, head.encode(), b'x' * (left - 1) + b'\n')
    return box


def single(path, size):
    """One message of that size, or a little more."""
    box = Mailbox(path)
    with open(path, 'wb') as f:
        box.add(f, 1, header(1, 'application/octet-stream'),
                *[BINARY] * -(-size // len(BINARY)))
    return box


def equal(path, count, size):
    """count messages of size bytes, header included."""
    box = Mailbox(path)
    with open(path, 'wb') as f:
        for n in range(count):
            head = header(n, 'text/plain; charset=utf-8')
            box.add(f, n, head, piece(POOL, n * 997 % len(POOL),
                                      size - len(head)))
    return box


def deliver(path, n):
    """Append one message, as a deliverer would."""
    head = header(n, 'text/plain; charset=utf-8')
    with open(path, 'ab') as f:
        f.write(from_line(n) + head + piece(POOL, 0, 4 * KIB) + b'\n')
