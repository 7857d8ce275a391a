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
 * AUTH PLAIN with anything in it: PAM is asked for a user and a password only
 * if a slow decoder, written from RFC 4648 and RFC 4616, finds the same two.
 *
 * Input: an octet, and the response, or, if the octet is odd, what is to be
 * put in base64 first; the second bit says whether it is an initial response.
 */

#include "inside.h"

static char	 asked_user[16384], asked_pass[16384];
static bool	 asked;

void
protect_memory(void)
{
}

enum auth
auth_user(const char *user, const char *pass, const char *peer,
    struct passwd **pw, const char **why)
{
	(void)peer;
	*pw = NULL;
	CHECK(!asked);
	asked = true;
	strlcpy(asked_user, user, sizeof(asked_user));
	strlcpy(asked_pass, pass, sizeof(asked_pass));
	*why = "test";
	return AUTH_REFUSED;
}

void
drop_privileges(const struct passwd *pw, gid_t spool)
{
	(void)pw;
	(void)spool;
	abort();
}

const char *
confine(int dir)
{
	(void)dir;
	abort();
}

static const char digit[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static size_t
encode(const uint8_t *data, size_t size, char *text)
{
	char *p = text;

	for (size_t i = 0; i < size; i += 3) {
		unsigned int n = (unsigned int)data[i] << 16;

		n |= i + 1 < size ? (unsigned int)data[i + 1] << 8 : 0;
		n |= i + 2 < size ? data[i + 2] : 0;
		*p++ = digit[n >> 18];
		*p++ = digit[n >> 12 & 63];
		*p++ = i + 1 < size ? digit[n >> 6 & 63] : '=';
		*p++ = i + 2 < size ? digit[n & 63] : '=';
	}
	return (size_t)(p - text);
}

/* Bit by bit.  -1: it is not base64. */
static int
reference_decode(const char *text, size_t length, char *result)
{
	size_t digits = length, bits;

	if (length % 4 != 0)
		return -1;
	while (digits > 0 && text[digits - 1] == '=')
		digits--;
	if (length - digits > 2)
		return -1;
	bits = digits * 6 / 8 * 8;
	memset(result, 0, digits + 1);
	for (size_t i = 0; i < digits * 6; i++) {
		const char *at = memchr(digit, text[i / 6], 64);

		if (at == NULL)
			return -1;
		if (i < bits && ((at - digit) >> (5 - i % 6) & 1))
			result[i / 8] |= (char)(128 >> i % 8);
	}
	return (int)(bits / 8);
}

/* Whether PAM is to be asked, and for what. */
static bool
reference_plain(const char *text, size_t length, const char **user,
    const char **pass)
{
	static char result[16384];
	int size, nuls = 0;

	if ((size = reference_decode(text, length, result)) == -1)
		return false;
	result[size] = '\0';
	for (int i = 0; i < size; i++)
		nuls += result[i] == '\0';
	if (nuls != 2)
		return false;
	*user = result + strlen(result) + 1;
	*pass = *user + strlen(*user) + 1;
	for (const char *p = *user; *p != '\0'; p++)
		if ((*p >= '\1' && *p < ' ') || *p == '\177')
			return false;
	return **user != '\0' && **pass != '\0' &&
	    (*result == '\0' || strcmp(result, *user) == 0) &&
	    strlen(*user) < sizeof(session.user);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char first[] = "AUTH PLAIN ", then[] = "AUTH PLAIN\r\n";
	static char text[32768];
	char *argv[] = { "pop3d", "-p", NULL }, *response;
	const char *user = NULL, *pass = NULL;
	size_t length;
	bool initial, wanted;

	if (size == 0 || size > 8000)
		return 0;
	initial = data[0] & 2;
	strcpy(text, initial ? first : then);
	response = text + strlen(text);
	if (data[0] & 1)
		length = encode(data + 1, size - 1, response);
	else {
		length = size - 1;
		memcpy(response, data + 1, length);
		if (memchr(response, '\n', length) != NULL ||
		    memchr(response, '\0', length) != NULL ||
		    memchr(response, '\r', length) != NULL ||
		    (initial && memchr(response, ' ', length) != NULL))
			return 0;
	}
	strcpy(response + length, "\r\n");

	wanted = reference_plain(response, length, &user, &pass);
	if (initial && strlen(text) > LINE_MAX_OCTETS)
		wanted = false;
	asked = false;
	client.most = data[0] >> 2;
	serve_client(argv, text, strlen(text));
	CHECK(asked == wanted);
	if (asked)
		CHECK(strcmp(asked_user, user) == 0 &&
		    strcmp(asked_pass, pass) == 0);
	return 0;
}
