"""The checksum of the side file, once more: sum() of mailbox.c on a host that counts bytes from the low end."""

WORD = 2 ** 64


def mix(x):
    x = (x + 0xd1b54a32d192ed03) * 0x9e3779b97f4a7c15 % WORD
    return x ^ x >> 32


def checksum(so_far, data):
    """sum() of mailbox.c."""
    h = mix(so_far ^ len(data))
    whole = len(data) // 8 * 8
    for at in range(0, whole, 8):
        h = mix(h ^ int.from_bytes(data[at:at + 8], "little"))
    return mix(h ^ int.from_bytes(data[whole:], "little"))
