/*
 * Copyright (c) 2026 the pop3d authors
 *
 * Permission to use, copy, modify, and distribute this software for any
 * purpose with or without fee is hereby granted, provided that the above
 * copyright notice and this permission notice appear in all copies.
 *
 * THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES
 * WITH REGARD TO THIS SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF
 * MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR
 * ANY SPECIAL, DIRECT, INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES
 * WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN
 * ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF
 * OR IN CONNECTION WITH THE USE OR PERFORMANCE OF THIS SOFTWARE.
 */

/*
 * copyout file
 * copyout file size
 *
 * The least that a server of the file can do.  The first form writes it to
 * stdout in pieces of 64 KiB.  The second answers each line on stdin with
 * +OK, size bytes of it and a line with a dot, and writes when no further line
 * is waiting or 64 KiB are full.
 */

#include <bsd/stdlib.h>
#include <err.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char out[2 << 20];

static void
write_all(const char *data, size_t size)
{
	ssize_t n;

	for (; size > 0; data += n, size -= (size_t)n)
		if ((n = write(1, data, size)) == -1)
			err(1, "write");
}

static ssize_t
piece(int fd, char *buf, size_t size, off_t at)
{
	ssize_t n;

	if ((n = pread(fd, buf, size, at)) == -1)
		err(1, "read");
	return n;
}

static void
copy(int fd)
{
	ssize_t n;
	off_t at;

	for (at = 0; (n = piece(fd, out, 64 << 10, at)) > 0; at += n)
		write_all(out, (size_t)n);
}

static void
answer(int fd, size_t size)
{
	static const char begin[] = "+OK octets\r\n", end[] = "\r\n.\r\n";
	char in[4096];
	size_t have = 0;
	ssize_t n, i;
	off_t at = 0;

	while ((n = read(0, in, sizeof(in))) > 0) {
		for (i = 0; i < n; i++) {
			if (in[i] != '\n')
				continue;
			if (have + size + 64 > 64 << 10) {
				write_all(out, have);
				have = 0;
			}
			memcpy(out + have, begin, sizeof(begin) - 1);
			have += sizeof(begin) - 1;
			have += (size_t)piece(fd, out + have, size, at);
			at += (off_t)size;
			memcpy(out + have, end, sizeof(end) - 1);
			have += sizeof(end) - 1;
		}
		write_all(out, have);
		have = 0;
	}
}

int
main(int argc, char *argv[])
{
	const char *wrong;
	size_t size;
	int fd;

	if (argc != 2 && argc != 3)
		errx(64, "usage: copyout file [size]");
	if ((fd = open(argv[1], O_RDONLY)) == -1)
		err(1, "%s", argv[1]);
	if (argc == 2) {
		copy(fd);
		return 0;
	}
	size = (size_t)strtonum(argv[2], 1, 1 << 20, &wrong);
	if (wrong != NULL)
		errx(64, "size is %s", wrong);
	answer(fd, size);
	return 0;
}
