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
 * drain [-o] first last window
 * drain -r message count
 * drain -e
 *
 * A POP3 client that does nothing but read.  Its stdin is a connection that
 * has logged in.  The first form retrieves the messages first to last with at
 * most window commands under way (1: it waits for each reply) and prints
 * seconds, octets received, replies; with -o it writes what it received to
 * stdout instead.  Once a small reply took longer than 20 ms, because the
 * server sends it in pieces and waits for an acknowledgement, these are sent
 * at once.  The second prints the median round trip, in microseconds, of NOOP
 * and of RETR message, asked in turn count times or for 3 seconds.  The third
 * reads to the end and prints seconds and octets.
 */

#include <sys/socket.h>

#include <netinet/in.h>
#include <netinet/tcp.h>

#include <bsd/stdlib.h>
#include <err.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define END "\r\n.\r\n"
#define TAIL (sizeof(END) - 2)	/* of what may begin END, carried over */

static char buf[TAIL + (256 << 10)];

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void
write_all(int fd, const char *data, size_t size)
{
	ssize_t n;

	for (; size > 0; data += n, size -= (size_t)n)
		if ((n = write(fd, data, size)) == -1)
			err(1, "write");
}

/* Send RETR for the messages from to less than to, in one write. */
static void
ask(long from, long to)
{
	char line[64 * 32];
	size_t len = 0;

	for (; from < to; from++) {
		len += (size_t)snprintf(line + len, sizeof(line) - len,
		    "RETR %ld\r\n", from);
		if (len > sizeof(line) - 32 || from + 1 == to) {
			write_all(0, line, len);
			len = 0;
		}
	}
}

static void
retrieve(long first, long last, long window, bool output)
{
	double start = now(), sent = start;
	long long octets = 0, before = 0;
	long asked = first, answered = first, ahead;
	char *at, *end, *data = buf + TAIL;
	ssize_t n;
	bool begin = true, stalls = false;
	int on = 1;

	memset(buf, 0, TAIL);
	while (answered <= last) {
		ahead = asked - answered;
		if (asked <= last && ahead <= window / 2) {
			long to = answered + window;

			if (to > last + 1)
				to = last + 1;
			ask(asked, to);
			asked = to;
			sent = now();
			before = octets;
		}
		if ((n = read(0, data, sizeof(buf) - TAIL)) <= 0)
			err(1, "reading message %ld", answered);
		octets += n;
		if (octets - before < 16384 && now() - sent > 0.02)
			stalls = true;
		if (stalls)
			setsockopt(0, IPPROTO_TCP, TCP_QUICKACK, &on,
			    sizeof(on));
		if (output)
			write_all(1, data, (size_t)n);
		if (begin && *data != '+')
			errx(1, "message %ld: refused", answered);
		end = data + n;
		for (at = buf; (at = memmem(at, (size_t)(end - at), END,
		    sizeof(END) - 1)) != NULL; at += sizeof(END) - 1) {
			answered++;
			if (at + sizeof(END) - 1 < end &&
			    at[sizeof(END) - 1] != '+')
				errx(1, "message %ld: refused", answered);
		}
		begin = memcmp(end - sizeof(END) + 1, END,
		    sizeof(END) - 1) == 0;
		memmove(buf, end - TAIL, TAIL);
		if (begin)	/* the next END shares nothing with this one */
			memset(buf, 0, TAIL);
	}
	if (!output)
		printf("%.6f %lld %ld\n", now() - start, octets,
		    answered - first);
}

/* One command and its reply; returns microseconds. */
static double
round_trip(const char *command, const char *end)
{
	double start = now();
	size_t have = 0, len = strlen(end);
	ssize_t n;

	write_all(0, command, strlen(command));
	do {
		if ((n = read(0, buf + have, sizeof(buf) - have)) <= 0)
			err(1, "%s", command);
		have += (size_t)n;
	} while (have < len || memcmp(buf + have - len, end, len) != 0);
	if (buf[0] != '+')
		errx(1, "%s: refused", command);
	return (now() - start) * 1e6;
}

static int
compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void
round_trips(long message, long count)
{
	static double noop[10000], retr[10000];
	char command[32];
	double start = now();
	long i;

	snprintf(command, sizeof(command), "RETR %ld\r\n", message);
	for (i = 0; i < count && i < 10000 && now() - start < 3; i++) {
		noop[i] = round_trip("NOOP\r\n", "\r\n");
		retr[i] = round_trip(command, END);
	}
	qsort(noop, (size_t)i, sizeof(*noop), compare);
	qsort(retr, (size_t)i, sizeof(*retr), compare);
	printf("%.1f %.1f\n", noop[i / 2], retr[i / 2]);
}

static void
read_to_end(void)
{
	double start = now();
	long long octets = 0;
	ssize_t n;

	while ((n = read(0, buf, sizeof(buf))) > 0)
		octets += n;
	if (n == -1)
		err(1, "read");
	printf("%.6f %lld\n", now() - start, octets);
}

static long
number(const char *arg)
{
	const char *wrong;
	long n = (long)strtonum(arg, 1, 1000000000, &wrong);

	if (wrong != NULL)
		errx(64, "%s is %s", arg, wrong);
	return n;
}

int
main(int argc, char *argv[])
{
	bool output = argc == 5 && strcmp(argv[1], "-o") == 0;

	if (argc == 2 && strcmp(argv[1], "-e") == 0)
		read_to_end();
	else if (argc == 4 && strcmp(argv[1], "-r") == 0)
		round_trips(number(argv[2]), number(argv[3]));
	else if (output || argc == 4) {
		argv += output;
		retrieve(number(argv[1]), number(argv[2]), number(argv[3]),
		    output);
	} else
		errx(64, "usage: drain [-o] first last window | "
		    "-r message count | -e");
	return 0;
}
