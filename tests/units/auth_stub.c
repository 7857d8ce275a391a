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
 * In place of auth.c, for the tests that are not about it: the user
 * $POP3D_STUB_USER (alice) with the password "secret" is whoever runs this,
 * or, if that is root, the uid $POP3D_STUB_UID.  The spool directory's group
 * is $POP3D_STUB_SPOOL, if it has one that counts.
 */

#include <sys/types.h>

#include <err.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pop3d.h"

void
protect_memory(void)
{
}

enum auth
auth_user(const char *user, const char *pass, const char *peer,
    struct passwd **pw, const char **why)
{
	static struct passwd me;
	const char *name = getenv("POP3D_STUB_USER");
	const char *uid = getenv("POP3D_STUB_UID");
	char *home = getenv("HOME");

	(void)peer;
	*pw = NULL;
	if (name == NULL)
		name = "alice";
	if (strcmp(user, name) != 0 || strcmp(pass, "secret") != 0) {
		*why = "credentials";
		return AUTH_REFUSED;
	}
	me.pw_uid = uid != NULL ? (uid_t)strtoul(uid, NULL, 10) : getuid();
	me.pw_gid = uid != NULL ? (gid_t)me.pw_uid : getgid();
	free(me.pw_name);
	if ((me.pw_name = strdup(name)) == NULL) {
		*why = "memory";
		return AUTH_TROUBLE;
	}
	me.pw_dir = home != NULL ? home : "/nonexistent";
	*pw = &me;
	return AUTH_OK;
}

gid_t
spool_gid(const char *path, gid_t own)
{
	const char *gid = getenv("POP3D_STUB_SPOOL");

	(void)path;
	return gid != NULL ? (gid_t)strtoul(gid, NULL, 10) : own;
}

void
drop_privileges(const struct passwd *pw, gid_t spool)
{
	if (getuid() == pw->pw_uid)
		return;
	if (setgroups(1, &pw->pw_gid) == -1 ||
	    setresgid(pw->pw_gid, pw->pw_gid, spool) == -1 ||
	    setresuid(pw->pw_uid, pw->pw_uid, pw->pw_uid) == -1)
		err(1, "uid %u", pw->pw_uid);
}

const char *
confine(int dir)
{
	(void)dir;
	return NULL;
}
