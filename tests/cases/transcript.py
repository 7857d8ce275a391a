"""The .case files: what they mean and how they are played.

A case is a description and sections, done in the order they stand in:

== options         words for the command line, instead of -p
== patient         the end of a refused session takes longer than one second
== mailbox         the mailbox is written anew; no such section: it is missing
== session         a session from the greeting on
== transaction     a session that alice has logged in to
== after           the mailbox now; without this section a session must
                   leave it as it was, modification time and all

In a session
C: text            the client sends text and CRLF
C= text            the client sends text as it is
C: <end>           the client hangs up; in a session without it the server
                   is the one to end
S: text            the server sends this line

Everywhere \\r \\n \\0 \\\\ \\xHH are octets, \\{3*text} is text three times over,
and a \\ at the end of a line takes its newline away.  A session's lines may
have spaces in front, and # begins a comment.  In an S: line * is any text that
does not begin with a response code (\\* is a *), <name> is a unique-id without
its -2: the same one wherever the name is, another one for any other name.
"""

import fcntl
import re
import select
import struct
import termios

from harness import LOGIN

REPEAT = re.compile(rb"\\\{(\d+)\*((?:\\.|[^}\\])*)\}")
ESCAPE = re.compile(rb"\\([rn0*\\]|x[0-9a-f]{2})")
SIMPLE = {b"r": b"\r", b"n": b"\n", b"0": b"\0", b"\\": b"\\", b"*": b"*"}
END = b"<end>"


def repeat(text):
    return REPEAT.sub(lambda match: int(match[1]) * match[2], text)


def unescape(text):
    return ESCAPE.sub(lambda match: SIMPLE.get(match[1]) or
                      bytes.fromhex(match[1][1:].decode()), repeat(text))


def read_case(path):
    """(description, [(section, its text)])"""
    description, *parts = re.split(rb"^== (.*)\n", path.read_bytes(),
                                   flags=re.M)
    assert description.strip() and parts, f"{path} says nothing"
    return description.decode().strip(), list(zip(parts[::2], parts[1::2]))


def mailbox(text):
    return unescape(text.replace(b"\\\n", b""))


def options(case):
    """The options of a case as strings."""
    words = dict(case).get(b"options", b"-p").split()
    return [word.decode() for word in words]


def steps(name, text):
    """A session's steps: ("C", octets, None) and ("S", pattern, text)."""
    result = []
    if name == b"transaction":
        result = [("S", b"[+]OK.*", b"+OK*"), ("C", LOGIN, None),
                  ("S", b"[+]OK.*", b"+OK*"), ("S", b"[+]OK.*", b"+OK*")]
    for line in text.replace(b"\\\n", b"").splitlines():
        line = line.lstrip()
        kind, rest = line[:2], line[3:]
        if not line or line.startswith(b"#"):
            continue
        if kind == b"S:":
            result.append(("S", pattern(rest), rest))
        else:
            assert kind in (b"C:", b"C="), f"what is {line!r}?"
            end = b"\r\n" if kind == b"C:" else b""
            result.append(("C", END if rest == END else unescape(rest) + end,
                           None))
    return result


def pattern(text):
    """An S: line as a regular expression."""
    parts = re.split(rb"((?<!\\)\*|<\w+>)", repeat(text))
    wild = {b"*": rb"(?!\[)[\s\S]*"}
    for at in range(1, len(parts), 2):
        parts[at] = wild.get(parts[at], rb"([!-,.-~]{1,70})")
    parts[::2] = [re.escape(unescape(part)) for part in parts[::2]]
    return b"".join(parts)


class Expect:
    """Matches what the server sends with the S: lines, one by one."""

    def __init__(self):
        self.ids = {}

    def line(self, line, step):
        match = re.fullmatch(step[1], line)
        assert match, f"expected {step[2]!r}, got {line!r}"
        names = re.findall(rb"<(\w+)>", step[2])
        for name, value in zip(names, match.groups()):
            if self.ids.setdefault(name, value) != value:
                raise AssertionError(f"<{name.decode()}> changed: {line!r}")
        assert len(set(self.ids.values())) == len(self.ids), "ids are alike"

    def all(self, output, expected):
        lines = output.split(b"\n")
        assert lines.pop() == b"", f"the answers end in {output[-80:]!r}"
        for step, line in zip(expected, lines):
            assert line.endswith(b"\r"), f"no CRLF after {line!r}"
            self.line(line[:-1], step)
        assert len(lines) == len(expected), \
            f"{len(lines)} lines, not {len(expected)}: {lines[len(expected):]}"


def one_segment(session, script, expect):
    """The client sends all that it has to say at once."""
    session.send(said(script))
    play_end(session, script)
    expect.all(session.rest(), [step for step in script if step[0] == "S"])


def octet_by_octet(session, script, expect):
    """The client waits until the server has read each octet."""
    output = b""
    for octet in said(script):
        while unread(session):
            if select.select([session.reader], [], [], 0)[0]:
                output += session.read()
            if session.process.poll() is not None:
                break
        session.send(bytes([octet]))
    play_end(session, script)
    expect.all(output + session.rest(), [s for s in script if s[0] == "S"])


def line_by_line(session, script, expect):
    """The client waits for each answer."""
    for step in script:
        if step[0] == "S":
            expect.line(session.line(), step)
        elif step[1] == END:
            session.end()
        else:
            session.send(step[1])
    rest = session.rest()
    assert not rest, f"there is no S: line for {rest!r}"


MODES = [one_segment, octet_by_octet, line_by_line]


def said(script):
    return b"".join(step[1] for step in script
                    if step[0] == "C" and step[1] != END)


def play_end(session, script):
    if any(step[1] == END for step in script):
        session.end()


def unread(session):
    """How many octets wait in the pipe for the server."""
    raw = fcntl.ioctl(session.writer, termios.FIONREAD, b"\0" * 4)
    return struct.unpack("i", raw)[0]
