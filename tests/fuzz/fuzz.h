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


/* What the fuzz targets share. */

#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A finding: libFuzzer keeps the input of a process that aborts. */
#define CHECK(truth) \
	((truth) ? (void)0 : finding(__FILE__, __LINE__, #truth))

#define EQUAL(got, want) \
	((intmax_t)(got) == (intmax_t)(want) ? (void)0 : different(__FILE__, \
	__LINE__, #got, (intmax_t)(got), (intmax_t)(want)))

_Noreturn void different(const char *file, int line, const char *what,
    intmax_t got, intmax_t want);
_Noreturn void finding(const char *file, int line, const char *what);

/* A path for name in a folder of this process's own, on tmpfs. */
const char *scratch(const char *name);

/*
 * Writing leaves another mtime than any before, whatever the grain of the file
 * system's clock: without that a change may go unseen.
 */
void put_file(const char *path, const void *data, size_t size);
void append_file(const char *path, const void *data, size_t size);
char *get_file(const char *path, size_t *size);		/* to be freed */

/* What is left of an input, taken octet by octet; 0 at its end. */
struct input {
	const uint8_t	*next;
	size_t		 left;
};

uint8_t take_octet(struct input *);
uint32_t take_number(struct input *, uint32_t limit);	/* below limit */

extern unsigned int fuzz_area;	/* DATA_AREA_MAX */

int LLVMFuzzerTestOneInput(const uint8_t *, size_t);

#endif
