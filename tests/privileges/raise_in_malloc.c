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
 * For LD_PRELOAD: inside the malloc(3) of the number $RAISE_AT, counted from
 * 1, the process gets the signal $RAISE_SIGNAL.  malloc(3) does not lock out
 * its own process: a handler that allocates, or calls exit(3), meets a heap in
 * pieces.  Here that ends the process, with the status RE_ENTERED.  The count
 * goes to the file $RAISE_COUNT, of eight octets, open from the beginning.
 */

#include <sys/mman.h>

#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define RE_ENTERED	99

static pid_t owner;			/* its children do not count */
static uint64_t *count, at;
static int sig, inside;

static void
begin(void)
{
	int fd = open(getenv("RAISE_COUNT"), O_RDWR);

	owner = getpid();
	at = strtoul(getenv("RAISE_AT"), NULL, 10);
	sig = atoi(getenv("RAISE_SIGNAL"));
	count = mmap(NULL, sizeof(*count), PROT_READ | PROT_WRITE, MAP_SHARED,
	    fd, 0);
	if (count == MAP_FAILED)
		abort();
	close(fd);
}

void *
malloc(size_t size)
{
	static void *(*real)(size_t);
	void *result;

	if (real == NULL) {
		*(void **)&real = dlsym(RTLD_NEXT, "malloc");
		begin();
	}
	if (inside)
		_exit(RE_ENTERED);
	inside = 1;
	if (getpid() == owner && ++*count == at)
		kill(owner, sig);
	result = real(size);
	inside = 0;
	return result;
}

/* What exit(3) calls. */
static void __attribute__((destructor))
end(void)
{
	if (inside)
		_exit(RE_ENTERED);
}
