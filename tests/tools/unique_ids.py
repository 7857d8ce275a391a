"""The rule of unique-ids, a second time: slow, and written from the rule, not from mailbox.c."""

import hashlib
import re

PRIVATE = {b"status", b"x-status", b"x-keywords", b"x-uid", b"x-imap", b"x-imapbase"}
ADDED = {b"content-length", b"lines", b"x-uidl"}
IN_BODY = 1024


def fields(header):
    """(name as written, all its lines) of each field; a line that continues nothing has no name."""
    for text in re.findall(rb"(?:[^\n]*(?:\n|\Z))(?:[ \t][^\n]*(?:\n|\Z))*", header):
        if text:
            name = re.match(rb"([^:\s]+):", text)
            yield (name[1] if name else b""), text


def lasting(header):
    """What popa3d makes its id of."""
    received, chosen = False, b""
    for name, text in fields(header):
        low = name.lower()
        if (low == b"delivered-to" or name[:1] == b"X" and low == b"x-delivery-id"
                or not received and low in (b"received", b"date", b"message-id")):
            chosen += text
        received |= low == b"received"
    return chosen


def first_word(header):
    """The id that an X-UIDL line says, or None; one that ends as a twin's number does says none."""
    for name, text in fields(header):
        words = text.split(b"\n")[0].rstrip(b"\r")[7:].strip(b" \t")
        if name.lower() == b"x-uidl" and re.fullmatch(rb"[\x21-\x7e]{1,70}", words) and not re.search(rb"-\d+$", words):
            return words.decode()
    return None


def popa3ds(text):
    """The first half of its MD5, printed as popa3d prints it: two numbers, the first octet of each last."""
    digest = hashlib.md5(text).digest()
    return digest[3::-1].hex() + digest[7:3:-1].hex()


def unique_id(mail):
    """Of a mail as it is stored, its From_ line first, without its separator."""
    header, empty, body = re.fullmatch(rb"From [^\n]*(?:\n|\Z)(.*?)(?:^(\r?\n)(.*))?", mail, re.S | re.M).groups()
    if (word := first_word(header)) is not None:
        return word
    text = lasting(header)
    if not text:
        text = b"".join(line for name, line in fields(header) if name.lower() not in PRIVATE | ADDED)
        text += (body or b"")[:IN_BODY].rstrip(b"\r\n")
    return popa3ds(text)


def unique_ids(mails):
    """Of all messages of a mailbox: twins get a number; a word that leaves no room for it is itself made a number."""
    count, ids = {}, []
    for mail in mails:
        name = unique_id(mail)
        count[name] = count.get(name, 0) + 1
        twin = f"-{count[name]}" if count[name] > 1 else ""
        ids.append((name if len(name + twin) <= 70 else popa3ds(name.encode())) + twin)
    return ids


NAMES = ["Received", "Received", "Delivered-To", "Date", "Message-ID", "X-Delivery-ID", "x-delivery-id", "Subject", "From", "To", "Status",
         "X-UID", "Content-Length", "Lines", "Datex", "X-Received", "Message", "X-Keywords"]


def random_mail(rng, lasting=False):
    """A mail with its From_ line; lasting: with a line that is in popa3d's id, too."""
    def line(name):
        name = rng.choice((str, str, str.upper, str.lower))(name)
        text = f"{name}:{rng.choice((' ', '', '  '))}{rng.getrandbits(40):x}"
        for _ in range(rng.choice((0, 0, 0, 1, 2))):
            text += f"\n{rng.choice((' ', chr(9)))}{rng.getrandbits(30):x}: {rng.choice(NAMES)}: x"
        return text + "\n"

    names = rng.choices(NAMES, k=rng.randrange(8)) + (["Message-ID"] if lasting else [])
    if lasting and rng.random() < 0.5:
        names.remove("Message-ID")
        names.append("Delivered-To")
    body = "".join(rng.choice(("\n", "Date: x\n", "Received: y\n", f"{rng.getrandbits(60):x}\n" * 20)) for _ in range(rng.randrange(6)))
    body = body.rstrip("\n") + "\n" if body.strip("\n") else ""
    return f"From a{rng.randrange(99)}@example.org Mon Jan  5 10:00:00 2026\n{''.join(map(line, names))}\n{body}".encode()
