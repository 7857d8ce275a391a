"""Forty mails of the kinds that mail programs stumble over.

A mail here is what a client must get, but with LF for CRLF: see sent().  How
it lies in a mailbox is stored()'s business.
"""

import base64
import random

FROM_LINE = b"From alice@example.org Tue Nov 24 09:00:00 2026\n"
CHANCE = random.Random(1939)


def mail(name, body, *header):
    """A mail with the subject name; header is lines to add."""
    lines = ["Return-Path: <alice@example.org>",
             "Received: by mail.example.net; Tue, 24 Nov 2026 09:00:00 +0000",
             "From: Alice <alice@example.org>",
             "To: Bob <bob@example.net>",
             f"Subject: {name}",
             "Date: Tue, 24 Nov 2026 08:59:59 +0000",
             f"Message-ID: <{name.replace(' ', '.')}@example.org>",
             *header]
    if isinstance(body, str):
        body = body.encode()
    return "\n".join(lines).encode() + b"\n\n" + body


def attachment(name, size):
    data = base64.encodebytes(CHANCE.randbytes(size * 3 // 4)).decode()
    return mail(name,
                "--b\nContent-Type: text/plain\n\nSee the picture.\n"
                "--b\nContent-Type: image/jpeg; name=picture.jpg\n"
                "Content-Disposition: attachment; filename=picture.jpg\n"
                f"Content-Transfer-Encoding: base64\n\n{data}--b--\n",
                "MIME-Version: 1.0",
                "Content-Type: multipart/mixed; boundary=b")


def text(name, body, charset="utf-8", encoding="8bit", *header):
    return mail(name, body, "MIME-Version: 1.0",
                f"Content-Type: text/plain; charset={charset}",
                f"Content-Transfer-Encoding: {encoding}", *header)


LONG_LINE = "".join(CHANCE.choices("abcdefghij klmnopqrst", k=7999)) + "x\n"
TWIN = mail("twin", "I was sent twice, and am the same to the octet.\n")

MARKED_READ = mail("marked read", "A local program has shown me to bob.\n")
WITH_CRLF = mail("stored with CRLF", "One line\nand another.\n")
NO_NEWLINE = mail("no final newline", "I end where the mailbox ends.\n")

MAILS = [
    mail("plain", "Hello Bob,\n\nthis is a mail.\n\nAlice\n"),
    text("UTF-8", "Grüße, Καλημέρα, こんにちは 👋\n"),
    text("UTF-8 header", "See my name.\n", "utf-8", "8bit", "X-Name: Jörg"),
    mail("encoded words", "See the comment.\n",
         "Comments: =?utf-8?B?R3LDvMOfZQ==?= =?iso-8859-1?Q?=E9t=E9?="),
    text("Latin-1", "été, Straße\n".encode("latin-1"), "iso-8859-1"),
    mail("all octets from 128 on", bytes(range(128, 256)) + b"\n"),
    mail("control characters", "\a \b \f \v \33[31m \177\n"),
    text("quoted-printable", "long=\n line =3D 3D=\n\n=2E\n", "us-ascii",
         "quoted-printable"),
    mail("HTML", "--b\nContent-Type: text/plain\n\nhi\n"
         "--b\nContent-Type: text/html\n\n<p>hi</p>\n--b--\n",
         "MIME-Version: 1.0",
         "Content-Type: multipart/alternative; boundary=b"),
    mail("mail in a mail", mail("inner", "I am inside.\n"),
         "MIME-Version: 1.0", "Content-Type: message/rfc822"),
    attachment("attachment", 30_000),
    attachment("attachment of a megabyte", 1_000_000),
    attachment("ten mebibytes", 10 << 20),
    mail("lines of dots", "".join("." * n + "\n" for n in range(80)) + ".\n"),
    mail("one dot", ".\n"),
    mail("dots in front", ".hidden\n..parent\n. \n.\t\n"),
    mail("ten thousand dots", ".\n" * 10_000),
    mail("line of 8000 octets", LONG_LINE),
    mail("lines of 8000 octets", LONG_LINE * 30),
    mail("line of 8000 dots", "." * 8000 + "\n"),
    mail("lines of all lengths", "".join("x" * n + "\n" for n in range(300))),
    mail("no body", ""),
    mail("empty line for a body", "\n"),
    mail("empty lines in front", "\n\n\ntext\n"),
    mail("empty lines behind", "text\n\n\n\n"),
    mail("blanks", " \n\t\n  trailing   \n\ttabs\t\t\n"),
    mail("quoted From", ">From here\n\n>From there\n>>From afar\n"),
    mail("unquoted From", "He came\nFrom afar.\n\nFrom what I know\nof him.\n"),
    mail("answers", "+OK 12 octets\n-ERR no\n+ \nQUIT\nDELE 1\n"),
    mail("folded header", "See above.\n", "X-Folded: one\n two\n\tthree"),
    mail("header line of 8000 octets", "So long.\n", "X-Long: " + "a" * 7990),
    mail("300 header lines", "So many.\n",
         *[f"X-Line-{n}: {n}" for n in range(300)]),
    mail("3000 recipients", "Hi all.\n",
         "Cc: " + ",\n ".join(f"user{n}@example.net" for n in range(3000))),
    b"Return-Path: <a@example.org>\nFrom: a@example.org\nSubject: little\n\n"
    b"No date, no Message-ID.\n",
    mail("header lines like private ones", "Keep them.\n",
         "X-My-Status: RO", "Old-Status: O", "StatusX: R", "X-UIDs: 17"),
    TWIN,
    TWIN,
    MARKED_READ,
    WITH_CRLF,
    NO_NEWLINE,     # the last: nothing can follow it
]


def stored(content):
    """A mail with its From_ line, as deliverers and readers leave it."""
    if content is MARKED_READ:
        content = content.replace(
            b"\n\n", b"\nStatus: RO\nX-Status: A\nX-UID: 17\n\n", 1)
    if content is WITH_CRLF:
        content = content.replace(b"\n", b"\r\n")
    if content is NO_NEWLINE:
        return FROM_LINE + content[:-1]
    return FROM_LINE + content + b"\n"


def mailbox(mails):
    return b"".join(map(stored, mails))


def sent(content):
    """A mail as it is on the wire, before byte-stuffing."""
    return content.replace(b"\n", b"\r\n")
