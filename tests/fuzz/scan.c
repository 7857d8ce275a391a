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

#define LEAST_READ	4096	/* that message_read() takes */

static void
compare_text(const struct maildrop *drop, size_t n,
    const struct ref_message *want)
{
	static char buf[LEAST_READ];
	struct reading reading;
	size_t got = 0;
	ssize_t size;

	message_begin(drop, n, &reading);
	while ((size = message_read(drop, &reading, buf, sizeof(buf))) > 0) {
		CHECK(got + (size_t)size <= want->size);
		CHECK(memcmp(buf, want->text + got, (size_t)size) == 0);
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
	EQUAL(message_check(drop, n), 0);
	compare_text(drop, n, want);
}

static void
check_ids(struct maildrop *drop)
{
	char (*ids)[UNIQUE_ID_SIZE];

	EQUAL(maildrop_ids(drop), 0);
	ids = calloc(drop->count + 1, sizeof(*ids));
	for (size_t i = 0; i < drop->count; i++) {
		unique_id(drop, i, ids[i]);
		CHECK(strlen(ids[i]) < 70);
		for (size_t j = 0; j < i; j++)
			CHECK(strcmp(ids[i], ids[j]) != 0);
	}
	free(ids);
}

static void
session(const char *path, const char *box, size_t size)
{
	struct maildrop drop;
	struct ref_maildrop want;
	int good = reference_scan(box, size, &want);

	EQUAL(maildrop_open(&drop, path), 0);
	EQUAL(maildrop_scan(&drop), good);
	if (good == 0) {
		EQUAL(drop.count, want.count);
		for (size_t i = 0; i < want.count; i++)
			compare(&drop, i, &want.messages[i]);
		check_ids(&drop);
		maildrop_index(&drop);
	}
	maildrop_close(&drop);
	free(drop.messages);
	free(drop.ids);
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
