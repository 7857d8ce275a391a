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
 * The mailbox format once more, in the simplest way: to compare with
 * mailbox.c.  Whole mailbox in memory, split in lines, plain loops.
 */

#ifndef REFERENCE_SCAN_H
#define REFERENCE_SCAN_H

#include <stdbool.h>
#include <stddef.h>

struct ref_message {
	size_t	 start;		/* offset of its From_ line */
	size_t	 from;		/* octets of that */
	size_t	 separator;	/* octets of its separator: 0, 1, 2 */
	bool	 private;	/* header lines were left out */
	bool	 named;		/* its X-UIDL line says its unique-id */
	char	 id[72];	/* its unique-id, without a twin's number */
	char	*text;		/* what is sent, with line ends as stored */
	size_t	 size;		/* of that */
	size_t	 octets;	/* of that, when it is sent */
};

struct ref_maildrop {
	struct ref_message	*messages;
	size_t			 count;
};

/* Returns 0, or -1: it is not a mailbox. */
int reference_scan(const char *box, size_t size, struct ref_maildrop *);
/* The unique-id of message n, a string, to text (72 bytes). */
void reference_id(const struct ref_maildrop *, size_t n, char *text);
void reference_free(struct ref_maildrop *);

#endif
