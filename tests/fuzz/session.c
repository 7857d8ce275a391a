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
 * A client that sends anything: every reply is well-formed, RETR sends what it
 * said, the mailbox is as it was but for what QUIT removed.
 *
 * Input: an octet of options, one that says in what pieces it comes, and what
 * the client sends.
 */

#include "inside.h"

enum {				/* the octet of options */
	LOGGED_IN	= 1,
	CLEAR		= 2,
	ENCRYPTED	= 4,
	PROXIED		= 8,
	FROM_AFAR	= 16,
	FROM_HERE	= 32
};

static const char login_lines[] = "USER alice\r\nPASS secret\r\n";

/* No line here looks like a status line, so those can be told apart. */
static const char *mails[] = {
	"From a@example.org Thu Nov  5 10:00:00 2026\n"
	"Subject: one\nStatus: RO\n\nfirst\n.\n..\nlast\n\n",
	"From b@example.org Thu Nov  5 10:01:00 2026\n"
	"Subject: two\n\n\n\n",
	"From c@example.org Thu Nov  5 10:02:00 2026\r\n"
	"Subject: three\r\n\r\n.three\r\n\r\n",
	"From b@example.org Thu Nov  5 10:01:00 2026\n"
	"Subject: two\n\n\n\n",
	"From d@example.org Thu Nov  5 10:03:00 2026\n"
	"Subject: four\n\nno end",
	NULL,	/* large_mail(), as the fifth of them */
};
#define MAILS	(sizeof(mails) / sizeof(mails[0]))

/* Longer than any buffer: a line of 9000 octets, and many to be stuffed. */
static const char *
large_mail(void)
{
	static char text[20000];
	char *p = text;

	p += sprintf(p, "From e@example.org Thu Nov  5 10:04:00 2026\n\n");
	memset(p, 'x', 9000);
	p += 9000;
	for (int i = 0; i < 3000; i++)
		p += sprintf(p, "\n%.*s", i % 3, "..");
	strcpy(p, "\n\n");
	return text;
}

static void
write_mailbox(void)
{
	if (mails[MAILS - 1] == NULL) {
		mails[MAILS - 1] = mails[MAILS - 2];
		mails[MAILS - 2] = large_mail();
	}
	put_file(scratch("alice"), "", 0);
	for (size_t i = 0; i < MAILS; i++)
		append_file(scratch("alice"), mails[i], strlen(mails[i]));
}

/* The line of a reply at p, with its CRLF; returns where the next one is. */
static const char *
next_line(const char *p, ptrdiff_t most)
{
	const char *end = client.heard + client.size;
	const char *lf = memchr(p, '\n', (size_t)(end - p));

	CHECK(lf != NULL && lf > p && lf[-1] == '\r');
	CHECK(lf + 1 - p <= most);
	CHECK(memchr(p, '\r', (size_t)(lf - p)) == lf - 1);
	CHECK(memchr(p, '\0', (size_t)(lf - p)) == NULL);
	return lf + 1;
}

static bool
begins(const char *line, const char *next, const char *text)
{
	size_t n = strlen(text);

	return (size_t)(next - line) >= n && memcmp(line, text, n) == 0;
}

/* Lines from p to the termination octet, of octets in all, or -1: any. */
static const char *
check_body(const char *p, ptrdiff_t most, long long octets)
{
	const char *next;
	long long sum = 0;

	for (;; p = next) {
		next = next_line(p, most);
		if (begins(p, next, ".\r\n"))
			break;
		CHECK(*p != '+' && *p != '-');
		CHECK(*p != '.' || p[1] == '.');
		sum += next - p - (*p == '.');
	}
	CHECK(octets == -1 || sum == octets);
	return next;
}

static void
check_replies(void)
{
	const char *end = client.heard + client.size, *p, *next;
	long long octets;
	char rest[2];

	for (p = client.heard; p < end; p = next) {
		next = next_line(p, LINE_MAX_OCTETS);
		if (begins(p, next, "-ERR ") || begins(p, next, "+ \r\n"))
			continue;
		CHECK(begins(p, next, "+OK ") || begins(p, next, "+OK\r\n"));
		if (next == end || *next == '+' || *next == '-')
			continue;
		if (sscanf(p, "+OK %lld octet%1[s]", &octets, rest) != 2)
			octets = -1;
		next = check_body(next, octets != -1 || begins(p, next,
		    "+OK top") ? PTRDIFF_MAX : LINE_MAX_OCTETS, octets);
	}
}

static void
check_mailbox(void)
{
	size_t size, gone = 0;
	char *box = get_file(scratch("alice"), &size), *p = box;

	for (size_t i = 0; i < MAILS; i++) {
		size_t n = strlen(mails[i]);

		if (size - (size_t)(p - box) >= n &&
		    memcmp(p, mails[i], n) == 0)
			p += n;
		else
			gone++;
	}
	EQUAL(p - box, size);
	EQUAL(gone, session.deleted);
	if (session.state != UPDATE)
		EQUAL(gone, 0);
	free(box);
}

/* The client sent a whole line that begins with this word. */
static bool
said(const char *text, size_t size, const char *word)
{
	const char *end = text + size, *lf;

	for (; (lf = memchr(text, '\n', (size_t)(end - text))) != NULL;
	    text = lf + 1)
		if ((size_t)(lf - text) >= strlen(word) &&
		    strncasecmp(text, word, strlen(word)) == 0)
			return true;
	return false;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool written;
	char *argv[] = { "pop3d", "-m", (char *)(uintptr_t)scratch("%u"), NULL,
	    NULL, NULL, NULL };
	char *text;
	int argc = 3;

	if (size < 2)
		return 0;
	if (data[0] & CLEAR)
		argv[argc++] = "-p";
	if (data[0] & ENCRYPTED)
		argv[argc++] = "-s";
	if (data[0] & PROXIED)
		argv[argc++] = "-P";
	client.address = data[0] & FROM_AFAR ? "192.0.2.7" :
	    data[0] & FROM_HERE ? "::1" : NULL;
	client.most = data[1];
	if ((text = malloc(size + sizeof(login_lines))) == NULL)
		return 0;
	text[0] = '\0';
	if (data[0] & LOGGED_IN)
		strcpy(text, login_lines);
	size -= 2;
	memcpy(text + strlen(text), data + 2, size);
	if (data[0] & LOGGED_IN)
		size += strlen(login_lines);

	if (!written)
		write_mailbox();
	serve_client(argv, text, size);
	check_replies();
	check_mailbox();
	written = session.deleted == 0;
	if (session.deleted != 0)
		CHECK(said(text, size, "QUIT") && said(text, size, "DELE"));
	free(text);
	return 0;
}
