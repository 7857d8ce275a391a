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
 * Any file as a mailbox: mailbox.c finds in it what the reference finds.
 *
 * Input: an octet, a number of two, and the mailbox.  The octet tells how much
 * of the mailbox is there in a first session; the rest is delivered after it,
 * and the third session finds nothing new.  The number is the length of a line
 * in a message put in front, so that any place can be where a buffer ends.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fuzz.h"
#include "pop3d.h"
#include "reference_scan.h"

/* That all may be read which pop3d.h allows AddressSanitizer sees. */
static volatile int keep;

static void
compare_text(struct maildrop *drop, size_t n, const struct ref_message *want)
{
	const char *piece;
	size_t got = 0;
	ssize_t size;

	EQUAL(message_begin(drop, n), 0);
	while ((size = message_read(drop, &piece)) > 0) {
		CHECK(got + (size_t)size <= want->size);
		CHECK(memcmp(piece, want->text + got, (size_t)size) == 0);
		/* The two octets before, where a line begins, and 32 behind. */
		EQUAL(piece[-1], got > 0 ? want->text[got - 1] : '\n');
		keep = piece[-2] + piece[size + 31];
		got += (size_t)size;
	}
	EQUAL(size, 0);
	EQUAL(got, want->size);
}

static void
compare(struct maildrop *drop, size_t n, const struct ref_message *want)
{
	const struct message *m = &drop->messages[n];

	EQUAL(m->start, want->start);
	EQUAL(m->from, want->from);
	EQUAL(m->octets, want->octets);
	EQUAL(m->separator, want->separator);
	EQUAL((m->flags & MSG_PRIVATE) != 0, want->private);
	EQUAL(m->flags & MSG_DELETED, 0);
	compare_text(drop, n, want);
}

/* By popa3d's rule, or its X-UIDL line's. */
static void
compare_ids(struct maildrop *drop, const struct ref_maildrop *want)
{
	char id[UNIQUE_ID_SIZE], wanted[72];

	EQUAL(maildrop_ids(drop), 0);
	for (size_t i = 0; i < drop->count; i++) {
		unique_id(drop, i, id);
		reference_id(want, i, wanted);
		CHECK(strcmp(id, wanted) == 0);
		for (size_t j = 0; j < i; j++) {
			unique_id(drop, j, wanted);
			CHECK(strcmp(id, wanted) != 0);
		}
	}
}

static void
session(const char *path, const char *box, size_t size)
{
	struct maildrop drop;
	struct ref_maildrop want;
	int good = reference_scan(box, size, &want);

	EQUAL(maildrop_open(&drop, path), 0);
	EQUAL(maildrop_begin(&drop), good);
	if (good == 0) {
		CHECK(drop.writable);
		EQUAL(drop.count, want.count);
		for (size_t i = 0; i < want.count; i++)
			compare(&drop, i, &want.messages[i]);
		compare_ids(&drop, &want);
	}
	maildrop_close(&drop);
	reference_free(&want);
}

/* A message in front of the mailbox, with a line of so many octets. */
static size_t
put_in_front(char *box, size_t octets)
{
	char *p = box;

	if (octets == 0)
		return 0;
	p += sprintf(p, "From a@example.org Thu Nov  5 10:00:00 2026\n\n");
	memset(p, 'x', octets);
	p += octets;
	p += sprintf(p, "\n\n");
	return (size_t)(p - box);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char box[32768];
	struct input in = { data, size };
	const char *path = scratch("box");
	size_t now = take_octet(&in), all;

	all = put_in_front(box, take_number(&in, 8192));
	if (all + in.left > sizeof(box))
		return 0;
	memcpy(box + all, in.next, in.left);
	all += in.left;
	now = all * now / 255;
	unlink(scratch(".box.pop3d"));
	put_file(path, box, now);
	session(path, box, now);
	append_file(path, box + now, all - now);
	session(path, box, all);
	session(path, box, all);
	return 0;
}
