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
 * Anything as side file in front of a mailbox, and a session that deletes
 * nothing.  mailbox.c is a part of this file, for its records and checksums.
 *
 * Input: octets for the kind of side file, the size of the data area, and the
 * mailbox; then what the side file is made of.
 */

#include "mailbox.c"

#include <dirent.h>

#include "fuzz.h"

enum kind { ANYTHING, INDEX, NOT_WHOLE, WRONG_SUMS, RIGHT_SUMS, KINDS };

static char		 box[16 * 1024];
static size_t		 box_size;
static struct maildrop	 drop;

static void
write_mailbox(unsigned int mails)
{
	char *p = box;

	for (unsigned int i = 0; i < mails; i++) {
		p += sprintf(p, "From m%u@example.org Thu Nov  5 10:%02u:00 "
		    "2026\nSubject: %u\n\n", i, i, i);
		memset(p, 'a' + (int)i, 1500);
		p += 1500;
		p += sprintf(p, "\n\n");
	}
	box_size = (size_t)(p - box);
	put_file(scratch("box"), box, box_size);
}

/* What a session set aside, if it did, must be the side file as it was. */
static bool
was_set_aside(const char *side, size_t size)
{
	static const char saved[] = ".box.pop3d.saved-";
	DIR *dir = opendir(scratch("."));
	struct dirent *entry;
	bool found = false;

	CHECK(dir != NULL);
	while ((entry = readdir(dir)) != NULL) {
		if (strncmp(entry->d_name, saved, strlen(saved)) != 0)
			continue;
		char path[512], *now;
		size_t now_size;

		snprintf(path, sizeof(path), "%s", scratch(entry->d_name));
		now = get_file(path, &now_size);
		CHECK(now_size == size && memcmp(now, side, size) == 0);
		free(now);
		unlink(path);
		found = true;
	}
	closedir(dir);
	return found;
}

static bool
mailbox_is_as_it_was(size_t size)
{
	size_t now_size;
	char *now = get_file(scratch("box"), &now_size);
	bool same = now_size >= size && memcmp(now, box, size) == 0 &&
	    (size < box_size || now_size == box_size);

	free(now);
	return same;
}

/* A session that reads all; whether it could log in. */
static bool
session(void)
{
	static char text[4096];
	char id[UNIQUE_ID_SIZE];
	struct reading r;
	bool good;

	good = maildrop_open(&drop, scratch("box")) == 0 &&
	    maildrop_scan(&drop) == 0;
	if (good) {
		bool ids = maildrop_ids(&drop) == 0;

		for (size_t i = 0; i < drop.count; i++) {
			(void)message_check(&drop, i);
			message_begin(&drop, i, &r);
			while (message_read(&drop, &r, text, sizeof(text)) > 0)
				continue;
			if (ids)
				unique_id(&drop, i, id);
		}
		maildrop_index(&drop);
	}
	maildrop_close(&drop);
	free(drop.messages);
	free(drop.ids);
	return good;
}

static int64_t
any_offset(struct input *in)
{
	int64_t n = take_number(in, 65536);

	return take_octet(in) % 16 == 0 ? -n : n % ((int64_t)box_size + 2);
}

/* A record that is wrong in the way that kind says. */
static struct record
forge_record(struct input *in, enum kind kind)
{
	struct record rec = { .magic = RECORD_MAGIC };
	struct maildrop this = { .fd = open(scratch("box"), O_RDONLY) };
	struct stat st;

	CHECK(this.fd != -1 && fstat(this.fd, &st) == 0);
	rec.sequence = take_number(in, 65536) + 1;
	rec.state = take_octet(in) % 4;
	rec.w = any_offset(in);
	rec.r = take_octet(in) % 8 == 0 ? rec.w : any_offset(in);
	rec.n = take_octet(in) % 2 ? any_offset(in) : 0;
	rec.next = any_offset(in);
	rec.device = st.st_dev;
	rec.inode = st.st_ino;
	rec.size = st.st_size;
	if (rec.w >= 0 && rec.r >= rec.w && rec.next >= 0)
		record_sums(&this, &rec);
	if (kind == WRONG_SUMS)
		rec.behind ^= take_number(in, 65535) + 1;
	rec.self = self_sum(&rec);
	if (kind == NOT_WHOLE)
		rec.self ^= take_number(in, 65535) + 1;
	close(this.fd);
	return rec;
}

/* An index that is whole, of messages that are not. */
static size_t
forge_index(struct input *in, char *side)
{
	struct message *messages = (void *)(side + SIDE_DATA +
	    sizeof(struct index));
	struct stat st;
	uint64_t count = take_octet(in) % 8;
	struct index x = { .magic = INDEX_MAGIC, .count = count };

	CHECK(stat(scratch("box"), &st) == 0);
	x.mailbox = stamp_of(&st);
	for (uint64_t i = 0; i < count; i++)
		messages[i] = (struct message){ .start = any_offset(in),
		    .octets = any_offset(in), .digest = take_octet(in),
		    .from = take_octet(in), .flags = take_octet(in) };
	x.messages = digest_of(messages, index_size(count));
	x.self = digest_of(&x, offsetof(struct index, self));
	memcpy(side + SIDE_DATA, &x, sizeof(x));
	return SIDE_DATA + sizeof(x) + index_size(count);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char side[SIDE_DATA + 65536];
	struct input in = { data, size };
	size_t side_size = SIDE_DATA, left;
	struct record rec = { 0 };
	enum kind kind;
	bool good;

	if (size > 16384)
		return 0;
	memset(side, 0, sizeof(side));
	kind = take_octet(&in) % KINDS;
	fuzz_area = take_octet(&in) % 3 * 4096;
	write_mailbox(take_octet(&in) % 8);
	if (kind >= NOT_WHOLE) {
		rec = forge_record(&in, kind);
		memcpy(side + (take_octet(&in) & SIDE_SLOTS), &rec,
		    sizeof(rec));
	} else if (kind == INDEX)
		side_size = forge_index(&in, side);
	left = in.left;
	if (kind == ANYTHING) {
		memcpy(side, in.next, left);
		side_size = left;
	} else if (left > 0 && kind >= NOT_WHOLE) {
		memcpy(side + SIDE_DATA, in.next, left);
		side_size = SIDE_DATA + left;
	}
	put_file(scratch(".box.pop3d"), side, side_size);

	good = session();
	switch (kind) {
	case WRONG_SUMS:
		EQUAL(was_set_aside(side, side_size), rec.state != IDLE);
		/* FALLTHROUGH */
	case ANYTHING:
	case INDEX:
	case NOT_WHOLE:
		CHECK(good);
		CHECK(mailbox_is_as_it_was(box_size));
		break;
	default:
		/* Nothing in front of the hole is ever touched. */
		if (rec.state == IDLE || was_set_aside(side, side_size) ||
		    rec.w > (int64_t)box_size)
			CHECK(mailbox_is_as_it_was(box_size));
		else
			CHECK(mailbox_is_as_it_was(rec.w < 0 ? box_size :
			    (size_t)rec.w));
	}
	return 0;
}
